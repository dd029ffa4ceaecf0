//! Acknowledged writes survive a kill of the writing process, a kill of the database server, and a power failure;
//! batches are atomic, and list entries match the documents.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use openorch_store::{Filter, PostgresOptions, PostgresStore, Query, Store, StoreError};
use serde_json::json;

use crate::{
    THINGS,
    child::{lines, run, start},
    open,
    postgres::{Server, until},
    suite::Schema,
    thing,
};

const T: &str = THINGS.name;
const WRITERS: usize = 8;
const FOLDER: &str = "STORE_CHILD_FOLDER";
const CONNECTION: &str = "STORE_CHILD_CONNECTION";
const SCHEMA: &str = "STORE_CHILD_SCHEMA";

/// Writes concurrently, two documents per batch, and reports the acknowledged ones, until it is stopped or killed.
async fn write(
    store: &Arc<dyn Store>,
    name: &str,
    stop: &Arc<AtomicBool>,
    on_acknowledged: impl Fn(String) + Clone + Send + 'static,
) {
    let tasks = (0..WRITERS).map(|writer| {
        let (store, stop, told) = (store.clone(), stop.clone(), on_acknowledged.clone());
        let name = format!("{name}w{writer}");
        tokio::spawn(async move {
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let id = format!("{name}i{i}");
                let body = json!({"kind": "half", "rank": i, "slug": id, "readers": ["all", i % 7]});
                match store.commit(thing(&id, body).create(T, format!("{id}b"), "{}")).await {
                    Ok(_) => told(id),
                    // The outcome is unknown; continue with the next document.
                    Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Not a test: writes until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child of other tests"]
async fn child_that_writes_until_it_is_killed() {
    let store = if let Some(folder) = std::env::var_os(FOLDER) {
        open(Path::new(&folder)).unwrap()
    } else if let (Ok(connection), Ok(schema)) = (std::env::var(CONNECTION), std::env::var(SCHEMA)) {
        PostgresStore::open(PostgresOptions { schema, ..PostgresOptions::new(connection) }).await.unwrap()
    } else {
        return;
    };
    store.open_collections(&[THINGS]).await.unwrap();
    if !store.is_seeded() {
        store.mark_seeded().await.unwrap();
    }
    let name = format!("p{}", std::process::id());
    write(&store, &name, &Arc::default(), |id| println!("acknowledged {id}")).await;
}

/// Starts writing children and ends each by `end`, after a different number of writes. Returns the acknowledged
/// documents.
fn kill_writers(
    environment: &[(&str, &std::ffi::OsStr)],
    rounds: usize,
    step: usize,
    mut end: impl FnMut(&mut std::process::Child),
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let mut child = start("child_that_writes_until_it_is_killed", environment);
        // Output from before the kill is still read.
        let mut printed =
            lines(&mut child).filter_map(|line| line.split_once("acknowledged ").map(|(_, id)| id.to_owned()));
        acknowledged.extend(printed.by_ref().take(1 + round * step));
        end(&mut child);
        acknowledged.extend(printed);
        openorch_test_support::process::wait(&mut child);
    }
    acknowledged
}

/// Asserts that all acknowledged batches exist, and none partially.
async fn check(store: &Arc<dyn Store>, acknowledged: &[String], at_least: usize) {
    store.open_collections(&[THINGS]).await.unwrap();
    let stored: HashSet<String> =
        store.find(T, &Query::all()).await.unwrap().rows.into_iter().map(|row| row.id).collect();
    for id in acknowledged {
        assert!(stored.contains(id) && stored.contains(&format!("{id}b")), "{id} was acknowledged and is missing");
    }
    let halves = store.count(T, &[Filter::equals("kind", "half")]).await.unwrap() as usize;
    assert_eq!(halves * 2, stored.len(), "batches are atomic");
    let listed = store.count(T, &[Filter::intersects("readers", ["all"])]).await.unwrap() as usize;
    let first = Query::all().intersects("readers", ["all"]).descending("rank").limit(halves as u64 + 1);
    assert_eq!((listed, store.find(T, &first).await.unwrap().rows.len()), (halves, halves), "list entries");
    assert!(acknowledged.len() >= at_least, "{} writes are too few to prove anything", acknowledged.len());
    println!("{} acknowledged, none lost", acknowledged.len());
}

fn integrity(folder: &Path) {
    let connection = rusqlite::Connection::open(folder.join("openorch.db")).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("server");
    let acknowledged = kill_writers(&[(FOLDER, folder.as_os_str())], 20, 37, |child| child.kill().unwrap());
    let store = open(&folder).unwrap();
    check(&store, &acknowledged, 3000).await;
    store.close().await;
    integrity(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_to_postgres_survives_kill_9_of_the_writer() {
    let Some(schema) = Schema::new() else { return };
    let environment = [(CONNECTION, schema.connection.as_ref()), (SCHEMA, schema.name.as_ref())];
    let acknowledged = kill_writers(&environment, 12, 20, |child| child.kill().unwrap());
    let store = PostgresStore::open(schema.options()).await.unwrap();
    check(&store, &acknowledged, 1000).await;
    store.close().await;
}

/// Writes to a server while `end` stops it several times and it is restarted; the store stays open.
async fn end_servers(mut server: Server, rounds: usize, mut end: impl AsyncFnMut(&mut Server)) {
    let options = PostgresOptions::new(server.connection());
    let store = PostgresStore::open(options.clone()).await.unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.mark_seeded().await.unwrap();
    let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
    let writing = tokio::spawn({
        let (store, stop, acknowledged) = (store.clone(), stop.clone(), acknowledged.clone());
        async move { write(&store, "w", &stop, move |id| acknowledged.lock().unwrap().push(id)).await }
    });
    let count = || acknowledged.lock().unwrap().len();
    for round in 0..rounds {
        let wanted = count() + 100 + round * 23;
        until("writes continue", async || (count() > wanted).then_some(())).await;
        end(&mut server).await;
        server.start().await;
    }
    let wanted = count() + 50;
    until("writes continue", async || (count() > wanted).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    check(&store, &acknowledged, rounds * 100).await;
    store.close().await;
    let store = PostgresStore::open(options).await.unwrap();
    check(&store, &acknowledged, rounds * 100).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9_and_an_immediate_stop_of_the_server() {
    let Some(server) = Server::new().await else { return };
    let mut round = 0;
    end_servers(server, 6, async |server| {
        round += 1;
        if round % 2 == 0 { server.stop_immediately() } else { server.kill() }
    })
    .await;
}

/// A disk with a simulated power failure: a file system in a file. Unsynced data is lost by a cut.
struct Disk {
    _temp: tempfile::TempDir,
    image: String,
    mount: PathBuf,
    cuts: AtomicUsize,
}

impl Disk {
    fn new() -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("image").to_str()?.to_owned();
        let this = Self { image, mount: temp.path().join("mount"), cuts: AtomicUsize::new(0), _temp: temp };
        std::fs::File::create(&this.image).unwrap().set_len(512 * 1024 * 1024).unwrap();
        std::fs::create_dir(&this.mount).unwrap();
        std::fs::set_permissions(this._temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", &this.image]) && this.turn_on() && run("python3", &["-c", ""]);
        if !made {
            eprintln!("SKIPPED: power failures cannot be simulated here (needs root, mkfs.ext4 and a loop device)");
        }
        made.then_some(this)
    }

    fn turn_on(&self) -> bool {
        // Without periodic commits, unsynced data is never written.
        run("mount", &["-o", "loop,commit=300", &self.image, self.mount.to_str().unwrap()])
    }

    /// An unsynced file. A new one for each cut, because ext4 syncs a file that is overwritten.
    fn unsynced(&self) -> PathBuf {
        self.mount.join(format!("unsynced{}", self.cuts.load(Ordering::Relaxed)))
    }

    /// Cuts the power. The writing processes should be suspended, as without power.
    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        std::fs::write(self.unsynced(), "here").unwrap();
        // EXT4_IOC_SHUTDOWN without writing the journal.
        let shutdown = "import fcntl, os, struct, sys\n\
                        fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        assert!(run("python3", &["-c", shutdown, self.mount.to_str().unwrap()]), "the power failure was not simulated");
    }

    /// Called after all processes with open files are dead.
    fn turn_on_again(&self) {
        assert!(run("umount", &[self.mount.to_str().unwrap()]));
        assert!(self.turn_on());
        let unsynced = std::fs::read(self.unsynced()).unwrap_or_default();
        assert_ne!(unsynced, b"here", "the power failure was not simulated: unsynced data exists");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.mount.to_str().unwrap()]);
    }
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_power_cut() {
    let Some(disk) = Disk::new() else { return };
    let folder = disk.mount.join("server");
    let acknowledged = kill_writers(&[(FOLDER, folder.as_os_str())], 5, 41, |child| {
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::STOP).unwrap();
        disk.cut();
        child.kill().unwrap();
        openorch_test_support::process::wait(child);
        disk.turn_on_again();
    });
    let store = open(&folder).unwrap();
    check(&store, &acknowledged, 200).await;
    store.close().await;
    integrity(&folder);
    drop(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_a_power_cut_of_the_server() {
    if Server::create(None, &[]).is_none() {
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let Some(server) = Server::within(Some(&disk.mount), &[]).await else { return };
    assert!(run("sync", &["-f", disk.mount.to_str().unwrap()]));
    end_servers(server, 2, async |server| {
        server.freeze();
        disk.cut();
        server.kill();
        disk.turn_on_again();
    })
    .await;
}
