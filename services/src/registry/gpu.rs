//! GPUs of the node, read from `nvidia-smi` if installed.

use std::{sync::OnceLock, time::Duration};

use openorch_api::registry::Gpu;
use tokio::{process::Command, time::timeout};

const PROGRAM: &str = "nvidia-smi";
const FIELDS: &str = "name,temperature.gpu,utilization.gpu,memory.total,memory.used,power.draw,power.limit,driver_version,pci.bus_id,compute_mode,pstate";
const TIMEOUT: Duration = Duration::from_secs(5);

/// The current state of the GPUs; empty if the program is missing or does not answer.
pub async fn read(node_url: &str) -> Vec<Gpu> {
    if !is_installed() {
        return Vec::new();
    }
    let query = format!("--query-gpu={FIELDS}");
    let Some(table) = output(&[&query, "--format=csv,noheader,nounits"]).await else { return Vec::new() };
    let cuda = output(&["--query"]).await.as_deref().and_then(cuda_version).unwrap_or_default();
    parse(&table, node_url, &cuda)
}

/// Checked once, so that a missing program costs nothing on each heartbeat.
fn is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(PROGRAM).is_file())
    })
}

async fn output(arguments: &[&str]) -> Option<String> {
    let run = Command::new(PROGRAM).args(arguments).kill_on_drop(true).output();
    let output = timeout(TIMEOUT, run).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cuda_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("CUDA Version"))?;
    Some(line.split(':').nth(1)?.trim().to_owned())
}

/// A field that is not a number (`[N/A]`) becomes zero, so that the other fields are kept.
fn parse(table: &str, node_url: &str, cuda: &str) -> Vec<Gpu> {
    let rows = table.lines().filter(|line| !line.trim().is_empty()).enumerate();
    rows.map(|(index, line)| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let text = |at: usize| fields.get(at).copied().unwrap_or_default().to_owned();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        Gpu {
            id: format!("{node_url}:{index}"),
            intra_node_id: index as u32,
            name: text(0),
            bus_id: text(8),
            temperature: number(1),
            performance_state: text(10),
            power_usage: number(5),
            power_cap: number(6),
            memory_usage: number(4) as u32,
            memory_total: number(3) as u32,
            gpu_utilization: number(2),
            compute_mode: text(9),
            cuda_version: cuda.to_owned(),
            process_details: Vec::new(),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_no_number_does_not_lose_the_gpu() {
        let table = "NVIDIA H200, 34, 0, 143771, 0, 76.20, [N/A], 570.1, 00000000:1B:00.0, Default, P0\n";
        let gpus = parse(table, "http://127.0.0.1:58231", "12.8");
        assert_eq!(gpus.len(), 1);
        assert_eq!((gpus[0].memory_total, gpus[0].power_cap, gpus[0].temperature), (143_771, 0.0, 34.0));
        assert_eq!((gpus[0].id.as_str(), gpus[0].performance_state.as_str()), ("http://127.0.0.1:58231:0", "P0"));
        assert_eq!(cuda_version("CUDA Version                              : 12.8\n").as_deref(), Some("12.8"));
    }
}
