//! A configuration string, and the packets that it stands for.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, Precision};
use wiremamba_model::generate::{LabelChoice, OPTIONS, TimelinePacket, Traffic, TrafficOptions};
use wiremamba_model::threads::Threads;

use crate::watch::Watch;

/// Packets of generated flows in the order of their times, and the threads that compute them.
pub(crate) struct Source {
    traffic: Traffic,
    threads: Threads,
    name: String,
}

/// What a source has.
pub(crate) enum Given {
    Packet(TimelinePacket),
    Nothing,
    Interrupted,
    End,
}

/// What a configuration string asks for.
#[derive(Debug, PartialEq)]
struct Config {
    model: PathBuf,
    /// `None` to leave it to the engine.
    precision: Option<Precision>,
    options: TrafficOptions,
}

impl Config {
    /// Reads `key=value,key=value`, the keys being those of [`OPTIONS`].
    fn parse(text: &str) -> Result<Self, String> {
        let (mut model, mut labels, mut precision, mut options) = (None, Vec::new(), None, TrafficOptions::default());
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not key=value"))?;
            match key {
                "model" => model = Some(PathBuf::from(value)),
                "label" => labels.push(value.to_owned()),
                "flows" => options.flows = Some(number(key, value)?),
                "packets" => options.packets = Some(number(key, value)?),
                "pps" => options.pps = Some(number(key, value)?),
                "stock" => options.stock = Some(number(key, value)?),
                "flow_packets_max" => options.generate.packets_max = Some(number(key, value)?),
                "seed" => options.generate.seed = number(key, value)?,
                "streams" => options.generate.streams = number(key, value)?,
                "temperature" => options.generate.sampling.temperature = number(key, value)?,
                "concurrent" => options.concurrent = Some(number(key, value)?),
                "precision" => precision = Precision::or_auto(value).map_err(|e| format!("{key}={e}"))?,
                "flows_per_second" => options.flow_rate = value.parse().map_err(|e| format!("{key}={value}: {e}"))?,
                _ => {
                    let keys: Vec<_> = OPTIONS.iter().map(|option| option.key).collect();
                    return Err(format!("unknown key {key:?}; there are {}", keys.join(", ")));
                }
            }
        }
        options.labels = LabelChoice::InTurn(labels);
        let model = model.ok_or("model=DIR is missing: a folder that wiremamba train wrote")?;
        Ok(Self { model, precision, options })
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key}={value} is no number that fits"))
}

impl Source {
    /// Opens the source that `config` describes.
    pub(crate) fn open(config: &str) -> Result<Self, String> {
        let Config { model, precision, options } = Config::parse(config)?;
        let threads = Threads::start(0, "wiremamba").map_err(|e| chain(&e))?;
        let traffic = threads.run(|| {
            let checkpoint = Checkpoint::load(&model).map_err(|e| chain(&e))?;
            let codec = checkpoint.codec.ok_or("the checkpoint was not made by wiremamba; it has no codec")?;
            let (device, _) = Device::Auto.resolve().map_err(|e| chain(&e))?;
            let decoder = engine::decoder(&checkpoint.params, device, precision).map_err(|e| chain(&e))?;
            Traffic::new(decoder, Arc::from(codec), options, Vec::new()).map_err(|e| chain(&e))
        })?;
        Ok(Self { traffic, threads, name: model.display().to_string() })
    }

    /// What it is, in a line.
    pub(crate) fn about(&self) -> String {
        let labels = self.traffic.labels().join(", ");
        format!("packets from {}, which knows {labels}; {} threads", self.name, self.threads.count())
    }

    /// From the beginning.
    pub(crate) fn rewind(self, seed: u64) -> Result<Self, String> {
        let Self { traffic, threads, name } = self;
        let traffic = threads.run(|| traffic.rewind(seed)).map_err(|e| chain(&e))?;
        Ok(Self { traffic, threads, name })
    }

    /// The next packet; where it has to be computed first, only if `may_compute`.
    pub(crate) fn next_packet(&mut self, watch: &Watch, may_compute: bool) -> Given {
        if watch.take_interruption() {
            return Given::Interrupted;
        }
        if !self.traffic.is_ready() {
            if !may_compute {
                return Given::Nothing;
            }
            // All steps of a flow in one go: to wake the threads for each would cost as much as a small step.
            let Self { traffic, threads, .. } = self;
            let computed = threads.run(|| {
                loop {
                    if let Poll::Ready(packet) = traffic.poll_packet() {
                        return Some(packet);
                    }
                    if watch.take_interruption() {
                        return None;
                    }
                }
            });
            let counters = self.traffic.counters();
            watch.generated(counters.flows, counters.malformed_packets);
            return computed.map_or(Given::Interrupted, |packet| given(packet, watch));
        }
        match self.traffic.poll_packet() {
            Poll::Ready(packet) => given(packet, watch),
            Poll::Pending => Given::Nothing,
        }
    }
}

fn given(packet: Option<TimelinePacket>, watch: &Watch) -> Given {
    let Some(packet) = packet else { return Given::End };
    watch.count_packet(packet.packet.data.len());
    Given::Packet(packet)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_and_what_is_wrong_is_named() {
        let Config { model, precision, options } =
            Config::parse("model=/m,label=a,label=b,flows=3,seed=9,temperature=0.5,precision=int8").unwrap();
        let labels = LabelChoice::InTurn(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!((model, options.labels, options.flows), (PathBuf::from("/m"), labels, Some(3)));
        assert_eq!((options.generate.seed, options.generate.sampling.temperature), (9, 0.5));
        assert_eq!(precision, Some(Precision::Int8));
        for (text, what) in [
            ("", "model=DIR"),
            ("model", "key=value"),
            ("model=/m,colour=3", "colour"),
            ("model=/m,flows=x", "flows=x"),
            ("model=/m,precision=f16", "precision=f16 is none of"),
        ] {
            assert!(Config::parse(text).unwrap_err().contains(what), "{text}");
        }
    }

    #[test]
    fn every_option_of_the_table_is_read_and_its_default_is_the_real_one() {
        for option in OPTIONS.iter().filter(|option| option.key != "model") {
            let plain = Config::parse("model=/m").unwrap();
            let with = |value: &str| Config::parse(&format!("model=/m,{}={value}", option.key)).unwrap();
            let other = if option.key == "precision" { "bf16" } else { "3" };
            assert!(with(other) != plain, "{}", option.key);
            if let Some(default) = option.default {
                assert_eq!(with(default), plain, "{}", option.key);
            }
        }
    }
}
