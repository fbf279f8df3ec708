//! A rate that changes over time, from a file: ramps, steps and pauses.

use std::path::{Path, PathBuf};

/// What the rates of a profile are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileUnit {
    /// Packets a second.
    Pps,
    /// Megabits a second.
    Mbps,
    /// Times as captured, this much faster.
    Multiplier,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// It cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no profile.
    #[error("{path}, line {line}: {text}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        text: String,
    },
}

/// A time of the profile.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    /// Seconds after the first packet.
    at_s: f64,
    /// Units a second: packets, bits, or seconds of the capture.
    rate: f64,
    /// Units that are due by now: the integral of the rate.
    done: f64,
}

/// A rate over time: straight lines between its points, two points of one time are a step, the last rate holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    unit: ProfileUnit,
    points: Vec<Point>,
}

impl Profile {
    /// Reads a file of lines `seconds,rate` below a line `time,pps`, `time,mbps` or `time,multiplier`. Empty lines and those
    /// that begin with # are passed over.
    ///
    /// # Errors
    /// It cannot be read; times that go back, rates below 0, a last rate of 0, which would never end.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ProfileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, text)| ProfileError::Line { path: path.to_owned(), line, text })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let lines = || text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        let mut lines = lines().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let expected = "the first line says what the rates are: time,pps or time,mbps or time,multiplier";
        let (line, head) = lines.next().ok_or((1, expected.to_owned()))?;
        let columns: Vec<String> = head.split(',').map(|column| column.trim().to_lowercase()).collect();
        let unit = match columns.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["time", "pps"] => ProfileUnit::Pps,
            ["time", "mbps"] => ProfileUnit::Mbps,
            ["time", "multiplier"] => ProfileUnit::Multiplier,
            _ => return Err((line, expected.to_owned())),
        };
        let mut points: Vec<Point> = Vec::new();
        let mut line_of_last = line;
        for (line, text) in lines {
            line_of_last = line;
            let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
            let Some((at_s, rate)) = text.split_once(',').and_then(|(at, rate)| Some((number(at)?, number(rate)?)))
            else {
                return Err((line, format!("{text:?}: expected seconds and a rate, both from 0 up")));
            };
            let rate = if unit == ProfileUnit::Mbps { rate * 1e6 } else { rate };
            let done = match points.last() {
                None if at_s > 0.0 => return Err((line, format!("begins at {at_s} s; the first time is 0"))),
                None => 0.0,
                Some(last) if at_s < last.at_s => return Err((line, format!("{at_s} s is before {} s", last.at_s))),
                Some(last) => last.done + (last.rate + rate) / 2.0 * (at_s - last.at_s),
            };
            points.push(Point { at_s, rate, done });
        }
        match points.last() {
            None => Err((line_of_last, "no rates".to_owned())),
            Some(last) if last.rate == 0.0 => {
                Err((line_of_last, "the last rate holds, so it has to be above 0; --duration ends a replay".to_owned()))
            }
            Some(_) => Ok(Self { unit, points }),
        }
    }

    /// What its rates are.
    pub fn unit(&self) -> ProfileUnit {
        self.unit
    }

    /// When so many units (packets, bits, seconds of the capture) are through, in seconds.
    pub(super) fn seconds_at(&self, done: f64) -> f64 {
        let next = self.points.partition_point(|point| point.done <= done);
        // The first point has nothing done, so there is one before.
        let from = self.points[next.saturating_sub(1)];
        let left = (done - from.done).max(0.0);
        let Some(to) = self.points.get(next) else { return from.at_s + left / from.rate };
        // left = rate t + slope t² / 2, solved for t in the form that also holds for a slope of nothing.
        let slope = (to.rate - from.rate) / (to.at_s - from.at_s);
        let root = (from.rate * from.rate + 2.0 * slope * left).max(0.0).sqrt();
        from.at_s + if left > 0.0 { 2.0 * left / (from.rate + root) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ramp_a_step_and_a_pause_are_at_their_times() {
        // 0 to 100 packets/s in 10 s: 500 packets; 100 for 10 s; nothing for 5 s; then 10.
        let text = "time,pps\n# up\n0,0\n10,100\n\n20, 100\n20,0\n25,0\n25,10\n";
        let profile = Profile::parse(text).unwrap();
        let at = |packets| profile.seconds_at(packets);
        assert_eq!(at(0.0), 0.0);
        assert!((at(125.0) - 5.0).abs() < 1e-9, "a quarter of the ramp at half of its time");
        assert!((at(500.0) - 10.0).abs() < 1e-9 && (at(600.0) - 11.0).abs() < 1e-9);
        assert!((at(1499.0) - 19.99).abs() < 1e-9);
        assert_eq!(at(1500.0), 25.0, "what is due as the pause begins waits for its end");
        assert!((at(1501.0) - 25.1).abs() < 1e-9 && (at(2500.0) - 125.0).abs() < 1e-9);
    }

    #[test]
    fn megabits_are_counted_in_bits() {
        let profile = Profile::parse("Time,Mbps\n0,8\n").unwrap();
        assert_eq!((profile.unit(), profile.seconds_at(8e6)), (ProfileUnit::Mbps, 1.0));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_its_line() {
        for (text, line, word) in [
            ("", 1, "time,pps"),
            ("time,rate\n0,1", 1, "time,pps"),
            ("0,1", 1, "time,pps"),
            ("time,pps", 1, "no rates"),
            ("time,pps\n1,1", 2, "first time is 0"),
            ("time,pps\n0,1\n\n5,-1", 4, "from 0 up"),
            ("time,pps\n0,1\n5,inf", 3, "from 0 up"),
            ("time,pps\n0,1\n5,2\n4,1", 4, "before"),
            ("time,pps\n0,1\n5,0", 3, "last rate"),
            ("time,pps\n0;1", 2, "seconds and a rate"),
        ] {
            let (at, said) = Profile::parse(text).unwrap_err();
            assert!(at == line && said.contains(word), "{text:?}: line {at}: {said}");
        }
    }

    proptest! {
        #[test]
        fn time_never_goes_back(
            rates in prop::collection::vec((0.0f64..1e4, 0.0f64..100.0), 1..10),
            last in 0.1f64..1e4,
        ) {
            let mut at = 0.0;
            let mut text = "time,pps\n".to_owned();
            for (rate, wait) in rates {
                text += &format!("{at},{rate}\n");
                at += wait;
            }
            text += &format!("{at},{last}\n");
            let profile = Profile::parse(&text).unwrap();
            let mut before = 0.0;
            for packets in 0..2000 {
                let now = profile.seconds_at(f64::from(packets));
                prop_assert!(now.is_finite() && now >= before - 1e-9, "{packets}: {now} after {before}");
                before = now;
            }
        }
    }
}
