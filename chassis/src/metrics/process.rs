//! The standard process metrics of Prometheus clients, read from `/proc`: available on Linux only.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// Reads `/proc` on each scrape.
#[derive(Debug)]
pub struct Process {
    /// Boot time in seconds since 1970. `None` without `/proc`.
    boot_time: Option<f64>,
}

impl Process {
    pub fn new() -> Process {
        Process { boot_time: boot_time() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read) else {
            return Ok(());
        };
        let help = "User and system CPU time spent in seconds.";
        let cpu = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(stat.cpu_seconds).encode(cpu)?;
        let started = self.boot_time.map(|system| system + stat.started_after_seconds);
        let gauges = [
            ("process_start_time_seconds", "Start time of the process since 1970 in seconds.", started),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", Some(stat.resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", Some(stat.virtual_bytes)),
            ("process_threads", "Number of OS threads in the process.", Some(stat.threads)),
            ("process_open_fds", "Number of open file descriptors.", open_descriptors()),
            ("process_max_fds", "Maximum number of open file descriptors.", max_descriptors()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

/// The fields of `/proc/self/stat` that are used.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    /// Since boot.
    started_after_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    /// The program's name, which may contain any characters, is in parentheses before the other fields (proc(5)).
    fn read(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        // The first of these is field 3 of proc(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = clock_ticks_per_second() as f64;
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started_after_seconds: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
        })
    }
}

fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

fn open_descriptors() -> Option<f64> {
    // One of them is the descriptor of this directory.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_descriptors() -> Option<f64> {
    getrlimit(Resource::Nofile).current.map(|max| max as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_contain_anything() {
        let fields = "S 1 1 1 0 -1 4194304 9 0 0 0 250 50 0 0 20 0 7 0 1200 4096 3 18446744073709551615";
        let stat = Stat::read(&format!("42 (a ) b) {fields}")).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.cpu_seconds, stat.threads, stat.virtual_bytes), (300.0 / ticks, 7.0, 4096.0));
        assert_eq!((stat.started_after_seconds, stat.resident_bytes), (1200.0 / ticks, 3.0 * page_size() as f64));
        assert_eq!(Stat::read("42 (x) S 1"), None);
        assert_eq!(Stat::read(""), None);
    }
}
