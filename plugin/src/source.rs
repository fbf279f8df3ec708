//! A configuration string, and the packets that it stands for.

use std::path::PathBuf;
use std::sync::Arc;

use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_model::codec::{Codec, LabelId};
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::generate::{Arrivals, GenerateOptions, GeneratedFlow, Generator, Request, Timeline};
use wiremamba_model::packet::{Packet, Timestamp};

type NextFlow = Box<dyn FnMut() -> Option<GeneratedFlow>>;

/// Packets of generated flows in the order of their times.
pub(crate) struct Source {
    timeline: Timeline<NextFlow>,
    left: Option<u64>,
}

/// What a configuration string asks for; the defaults are those of `wiremamba generate`.
#[derive(Debug, PartialEq)]
struct Config {
    model: PathBuf,
    labels: Vec<String>,
    flows: Option<u64>,
    packets: Option<u64>,
    flows_per_second: f64,
    options: GenerateOptions,
}

impl Config {
    /// Reads `key=value,key=value`; `label` may be given several times.
    fn parse(text: &str) -> Result<Self, String> {
        let mut model = None;
        let mut config = Self {
            model: PathBuf::new(),
            labels: Vec::new(),
            flows: None,
            packets: None,
            flows_per_second: 20.0,
            options: GenerateOptions {
                streams: 64,
                seed: 1,
                tokens_max: 100_000,
                packets_max: 10_000,
                ..GenerateOptions::default()
            },
        };
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not key=value"))?;
            match key {
                "model" => model = Some(PathBuf::from(value)),
                "label" => config.labels.push(value.to_owned()),
                "flows" => config.flows = Some(number(key, value)?),
                "packets" => config.packets = Some(number(key, value)?),
                "seed" => config.options.seed = number(key, value)?,
                "streams" => config.options.streams = number(key, value)?,
                "temperature" => config.options.sampling.temperature = number(key, value)?,
                "flows_per_second" => config.flows_per_second = number(key, value)?,
                _ => {
                    return Err(format!(
                        "unknown key {key:?}; there are model, label, flows, packets, seed, streams, temperature and flows_per_second"
                    ));
                }
            }
        }
        config.model = model.ok_or("model=DIR is missing: a folder that wiremamba train wrote")?;
        Ok(config)
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key}={value} is no number that fits"))
}

impl Source {
    /// Opens the source that `config` describes.
    pub(crate) fn open(config: &str) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let checkpoint = Checkpoint::load(&config.model).map_err(|e| chain(&e))?;
        let codec = checkpoint.codec.ok_or("the checkpoint was not made by wiremamba; it has no codec")?;
        let codec: Arc<dyn Codec> = Arc::from(codec);
        let labels = label_ids(&config.labels, codec.as_ref())?;
        let mut options = config.options;
        options.streams = config.flows.map_or(options.streams, |f| options.streams.min(f as usize));
        options.packets_max = options.packets_max.min(config.packets.map_or(usize::MAX, |p| p as usize));
        // Its first packet comes at the same time as that of `wiremamba generate`.
        let start = Timestamp::from_parts(1_700_000_000, 0);
        let arrivals = Arrivals::new(start, config.flows_per_second, options.seed).map_err(|e| chain(&e))?;
        let requests = arrivals.clone().enumerate().map(move |(i, start)| Request {
            label: labels[i % labels.len()],
            prompt: None,
            start,
        });
        let requests = requests.take(config.flows.map_or(usize::MAX, |f| f as usize));
        let engine = CpuEngine::new(checkpoint.params).map_err(|e| chain(&e))?;
        let mut generator =
            Generator::new(Box::new(engine), codec, options, Box::new(requests)).map_err(|e| chain(&e))?;
        let next_flow: NextFlow = Box::new(move || generator.next_flow());
        let timeline = Timeline::new(next_flow, arrivals, Timeline::<NextFlow>::HELD_PACKETS_MAX);
        Ok(Self { timeline, left: config.packets })
    }

    /// The next packet, or `None` at the end.
    pub(crate) fn next_packet(&mut self) -> Option<Packet> {
        if self.left == Some(0) {
            return None;
        }
        let packet = self.timeline.next()?.packet;
        self.left = self.left.map(|left| left - 1);
        Some(packet)
    }
}

fn label_ids(names: &[String], codec: &dyn Codec) -> Result<Vec<LabelId>, String> {
    let known = codec.labels();
    if names.is_empty() {
        return Ok((0..known.len() as u16).map(LabelId).collect());
    }
    let id = |name: &String| {
        let place = known.iter().position(|k| k == name);
        place
            .map(|i| LabelId(i as u16))
            .ok_or_else(|| format!("the model knows no label {name}; it knows {}", known.join(", ")))
    };
    names.iter().map(id).collect()
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
        let config = Config::parse("model=/m,label=a,label=b,flows=3,seed=9,temperature=0.5").unwrap();
        assert_eq!((config.model, config.labels.len(), config.flows), (PathBuf::from("/m"), 2, Some(3)));
        assert_eq!((config.options.seed, config.options.sampling.temperature), (9, 0.5));
        for (text, what) in
            [("", "model=DIR"), ("model", "key=value"), ("model=/m,pps=3", "pps"), ("model=/m,flows=x", "flows=x")]
        {
            assert!(Config::parse(text).unwrap_err().contains(what), "{text}");
        }
    }
}
