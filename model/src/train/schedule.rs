//! The learning rate as a pure function of the step.

/// Linear warm-up, then half a cosine down to a floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps of the way up.
    pub warmup_steps: u64,
    /// Steps of the whole run; later ones stay at the floor.
    pub steps: u64,
    /// Share of `learning_rate` at the end, 0 to 1.
    pub floor: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    ///
    /// The first step already learns (1 / warmup_steps of the rate); the last one of the warm-up has the full rate.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.steps.saturating_sub(self.warmup_steps);
        let progress =
            if decay_steps == 0 { 1.0 } else { ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0) };
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.learning_rate * (self.floor + (1.0 - self.floor) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { learning_rate: 1.0, warmup_steps: 10, steps: 110, floor: 0.1 };

    #[test]
    fn rises_linearly_then_falls_to_the_floor() {
        let at = |step| SCHEDULE.learning_rate(step);
        assert_eq!(at(0), 0.1);
        assert_eq!(at(4), 0.5);
        assert_eq!(at(9), 1.0);
        assert_eq!(at(10), 1.0);
        // A quarter of the way: 0.1 + 0.9 * (1 + cos 45°) / 2, by hand.
        assert!((at(35) - 0.868_198_051_533_946_4).abs() < 1e-12);
        assert!((at(60) - 0.55).abs() < 1e-12);
        assert!((at(110) - 0.1).abs() < 1e-12);
        assert!((at(u64::MAX) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn no_warmup_and_no_decay_are_defined() {
        let schedule = Schedule { warmup_steps: 0, steps: 0, ..SCHEDULE };
        assert!((schedule.learning_rate(0) - 0.1).abs() < 1e-12);
        assert_eq!(Schedule { warmup_steps: 0, ..SCHEDULE }.learning_rate(0), 1.0);
    }
}
