//! Two halves of real captures as captures of their own: what programs that read files need for a floor.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use wiremamba_eval::halves::Halves;
use wiremamba_model::flow::Flow;
use wiremamba_model::packet::Packet;

use super::{EvalError, Unit, read};
use crate::sink::PacketSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::source::collection::LabelledCapture;

/// Deals the flows of `captures` into halves as the other measures do, and writes them to `dir`: of each capture, one
/// file in each half. Packets of no flow are left out. In memory there is one capture at a time.
///
/// # Errors
/// A capture that cannot be read, a file that cannot be written, or `stop`.
pub fn write_halves(
    captures: &[LabelledCapture],
    seed: u64,
    dir: &Path,
    stop: &AtomicBool,
) -> Result<[Vec<PathBuf>; 2], EvalError> {
    let mut flows = 0;
    read(captures, stop, &|_| {}, &mut |unit| flows += usize::from(matches!(unit, Unit::Flow { .. })))?;
    let halves = Halves::new(flows, 0, seed);
    let mut writer = Writer { dir, capture: 0, packets: Default::default(), paths: Default::default(), failed: None };
    read(captures, stop, &|_| {}, &mut |unit| {
        let Unit::Flow { capture, number, flow } = unit else { return };
        if halves.is_first(0, number) {
            writer.add(0, capture, flow);
        } else if halves.is_second(0, number) {
            writer.add(1, capture, flow);
        }
    })?;
    writer.write();
    writer.failed.map_or(Ok(writer.paths), Err)
}

struct Writer<'a> {
    dir: &'a Path,
    /// The capture whose packets are held.
    capture: u32,
    packets: [Vec<Packet>; 2],
    paths: [Vec<PathBuf>; 2],
    failed: Option<EvalError>,
}

impl Writer<'_> {
    fn add(&mut self, half: usize, capture: u32, flow: Flow) {
        if capture != self.capture {
            self.write();
            self.capture = capture;
        }
        self.packets[half].extend(flow.packets.into_iter().map(|(_, packet)| packet));
    }

    /// Writes what is held, in the order of time.
    fn write(&mut self) {
        for half in [0, 1] {
            let mut packets = std::mem::take(&mut self.packets[half]);
            packets.sort_by_key(|packet| packet.ts);
            let path = self.dir.join(format!("{half}-{}.pcap", self.capture));
            let write = || {
                let mut sink = SavefileSink::create(&path, SavefileOptions::default())?;
                packets.iter().try_for_each(|packet| sink.send(packet))?;
                sink.finish().map(drop)
            };
            if packets.is_empty() || self.failed.is_some() {
                continue;
            }
            match write() {
                Ok(()) => self.paths[half].push(path),
                Err(error) => self.failed = Some(EvalError::Sink(error)),
            }
        }
    }
}
