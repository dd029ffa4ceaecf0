//! Timing, medians over rounds, and the table of results.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Number of rounds per measurement; the result is their median.
pub const ROUNDS: usize = 5;

/// Wall-clock and CPU time of a piece of work.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    /// CPU time of the whole process.
    pub cpu: Duration,
}

impl Cost {
    /// Operations per second.
    pub fn rate(&self, operations: usize) -> f64 {
        operations as f64 / self.wall.as_secs_f64()
    }

    /// CPU time per operation in microseconds.
    pub fn micros(&self, operations: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / operations as f64
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

pub fn cost(work: impl FnOnce()) -> Cost {
    let (wall, before) = (Instant::now(), cpu());
    work();
    Cost { wall: wall.elapsed(), cpu: cpu() - before }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of each value over all rounds.
pub fn medians<const N: usize>(mut round: impl FnMut() -> [f64; N]) -> [f64; N] {
    let rounds: Vec<[f64; N]> = (0..ROUNDS).map(|_| round()).collect();
    std::array::from_fn(|at| median(rounds.iter().map(|round| round[at]).collect()))
}

/// The limit of a result.
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
    /// Informational only.
    None,
}

#[derive(Default)]
pub struct Table(Vec<[String; 4]>);

impl Table {
    pub fn add_row(&mut self, what: &str, measured: f64, hold: Limit, detail: String) {
        let (held, met) = match hold {
            Limit::AtLeast(least) => (format!(">= {least}"), measured >= least),
            Limit::AtMost(most) => (format!("<= {most}"), measured <= most),
            Limit::None => ("-".into(), true),
        };
        let mark = if met { "" } else { " **missed**" };
        eprintln!("{what}: {measured:.2} ({held}){mark}  {detail}");
        self.0.push([what.into(), format!("{measured:.2}{mark}"), held, detail]);
    }

    /// The table as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| measurement | result | limit | detail |\n| --- | --- | --- | --- |\n");
        for row in &self.0 {
            text += &format!("| {} |\n", row.join(" | "));
        }
        text
    }
}

/// A pseudorandom number generator with a fixed seed (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
