//! File systems of this machine: paths that must exist, must take a small file, and must have room.
//!
//! A mount whose server is gone holds a call for ever, and a call that hangs cannot be given up. So the work is done on
//! blocking threads, and while one check of some paths hangs no other of the same paths is begun: later checks wait for
//! it, and run into their own deadlines.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Access, access, statvfs};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::dial::Way;
use super::trace::is_local;
use crate::domain::observation::{Finding, ProbeFailure, Reason, Reply};
use crate::domain::probe::FilesystemProbe;

/// Checks of different paths at once: our choice, a quarter of the runtime's blocking threads (512), so that many mounts
/// of one dead server leave threads for everyone else.
const AT_ONCE: usize = 128;
/// What is written and read back: our choice.
const CONTENT: &[u8] = b"as-infrastructure-service was here to see whether this folder can be written\n";
/// Paths shown to people: CONTRACT.md 6.2.
const DETAILS_BYTES: usize = 1024;

/// Who checks which paths right now. A clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    taken: Arc<Mutex<HashMap<Vec<PathBuf>, Arc<Semaphore>>>>,
    places: Arc<Semaphore>,
}

impl Turns {
    pub fn new() -> Self {
        Self { taken: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The turn at `paths`: one at a time.
    fn at(&self, paths: &[PathBuf]) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Held by nobody but this map: no check of these paths runs or waits.
        taken.retain(|_, turn| Arc::strong_count(turn) > 1);
        taken.entry(paths.to_vec()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

/// Looks at each path of `probe`.
pub(super) async fn send(probe: &FilesystemProbe, way: &Way, turns: &Turns) -> Result<Reply, ProbeFailure> {
    let local = |text: &str| ProbeFailure::new(Reason::LocalResource, text);
    way.sent();
    let stopped = |_| local("file system checks are stopped");
    let turn = turns.at(&probe.paths).acquire_owned().await.map_err(stopped)?;
    let Ok(place) = turns.places.clone().try_acquire_owned() else {
        return Err(local("too many file system checks hang"));
    };
    let probe = probe.clone();
    let looking = tokio::task::spawn_blocking(move || {
        // Kept until the work is done, even when nobody waits for it any more.
        let _kept = (turn, place);
        look(&probe)
    });
    let reply = looking.await.map_err(|error| local(&error.to_string()))??;
    way.answered();
    Ok(reply)
}

/// What is there at a path, in the words of CONTRACT.md 6.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writable,
    Exists,
    NotWritable,
    Missing,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Writable => "writable",
            Self::Exists => "exists",
            Self::NotWritable => "not_writable",
            Self::Missing => "missing",
        }
    }
}

fn look(probe: &FilesystemProbe) -> Result<Reply, ProbeFailure> {
    let mut findings = Vec::new();
    let mut states = Vec::new();
    for path in &probe.paths {
        if leads_out(path, &probe.roots) {
            let text = format!("{} leads to a place that is not below a root of FILESYSTEM_ALLOW", path.display());
            findings.push(Finding::unhealthy(Reason::EgressDenied, text));
            continue;
        }
        let (state, error) = state(path, probe.check_writable);
        states.push((path, state));
        if let Some(error) = error {
            if error.raw_os_error().is_some_and(is_local) {
                return Err(ProbeFailure::new(Reason::LocalResource, error.to_string()));
            }
            let text = format!("{}: {} ({error})", path.display(), state.as_str());
            findings.push(Finding::unhealthy(Reason::Assertion, text));
        } else {
            findings.extend(short_of_room(path, probe));
        }
    }
    Ok(Reply { findings, details: Some(details(&states)), ..Reply::default() })
}

/// Whether links lead from `path` to a place below none of `roots`. What is not there leads nowhere.
fn leads_out(path: &Path, roots: &[PathBuf]) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let is_below = |root: &PathBuf| fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
    !roots.is_empty() && !roots.iter().any(is_below)
}

fn state(path: &Path, check_writable: bool) -> (State, Option<io::Error>) {
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return (State::Missing, Some(error));
        }
        // It cannot even be seen.
        Err(error) => return (if check_writable { State::NotWritable } else { State::Missing }, Some(error)),
    };
    if !check_writable {
        return (State::Exists, None);
    }
    let written = if kind.is_dir() {
        write_and_remove(path)
    } else if kind.is_file() {
        // Opened and left as it is: what stands in it is not ours.
        OpenOptions::new().append(true).open(path).map(drop)
    } else {
        // To open a pipe or a device may wait or do something.
        access(path, Access::WRITE_OK).map_err(io::Error::from)
    };
    match written {
        Ok(()) => (State::Writable, None),
        Err(error) => (State::NotWritable, Some(error)),
    }
}

/// A new file in `folder` is written, read back and removed, whatever comes of the former.
fn write_and_remove(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".as-infrastructure-service.{}", Uuid::now_v7()));
    // Only ever a new file: never one that is there, nor where a link points to.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    let written = write_and_read(file);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn write_and_read(mut file: File) -> io::Result<()> {
    file.write_all(CONTENT)?;
    file.rewind()?;
    let mut read = Vec::with_capacity(CONTENT.len());
    file.take(CONTENT.len() as u64).read_to_end(&mut read)?;
    if read == CONTENT { Ok(()) } else { Err(io::Error::other("what was written reads differently")) }
}

/// Less free space, for users without privileges, than asked for.
fn short_of_room(path: &Path, probe: &FilesystemProbe) -> Option<Finding> {
    if probe.min_free_percent.is_none() && probe.min_free_bytes.is_none() {
        return None;
    }
    let degraded = |text: String| Some(Finding::degraded(Reason::Assertion, format!("{}: {text}", path.display())));
    let space = match statvfs(path) {
        Ok(space) => space,
        Err(error) => return degraded(format!("free space unknown ({error})")),
    };
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    if let Some(least) = probe.min_free_bytes.filter(|least| free_bytes < *least) {
        return degraded(format!("{free_bytes} bytes free, less than {least}"));
    }
    // A file system without blocks, such as /proc, has no share of them free either.
    if space.f_blocks == 0 {
        return None;
    }
    let free_percent = space.f_bavail as f64 / space.f_blocks as f64 * 100.0;
    let least = probe.min_free_percent.filter(|least| free_percent < *least)?;
    degraded(format!("{free_percent:.1}% free, less than {least}%"))
}

/// The states as a JSON object, as many as there is room for, the bad ones first.
fn details(states: &[(&PathBuf, State)]) -> Box<str> {
    let is_bad = |state: State| matches!(state, State::Missing | State::NotWritable);
    let (bad, good): (Vec<_>, Vec<_>) = states.iter().partition(|(_, state)| is_bad(*state));
    let mut paths = Map::new();
    let mut text = json!({ "paths": paths }).to_string();
    for (path, state) in bad.into_iter().chain(good) {
        paths.insert(path.display().to_string(), Value::from(state.as_str()));
        let longer = json!({ "paths": paths }).to_string();
        if longer.len() > DETAILS_BYTES {
            break;
        }
        text = longer;
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probes::Progress;

    fn probe(paths: &[&Path]) -> FilesystemProbe {
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        FilesystemProbe { paths, roots: Vec::new(), check_writable: true, min_free_percent: None, min_free_bytes: None }
    }

    #[test]
    fn nothing_is_left_behind_and_nothing_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "as it was").unwrap();
        let reply = look(&probe(&[folder.path(), &file])).unwrap();
        assert_eq!(reply.findings, []);
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert_eq!(look(&probe(&[&pipe])).unwrap().findings, []);
    }

    #[test]
    fn links_do_not_lead_out_of_the_roots() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let findings = |roots: Vec<PathBuf>| look(&FilesystemProbe { roots, ..probe(&[&link]) }).unwrap().findings;
        assert_eq!(findings(vec![folder.path().into()])[0].reason, Reason::EgressDenied);
        assert_eq!(findings(vec![elsewhere.path().into()]), []);
        assert_eq!(findings(Vec::new()), []);
    }

    #[test]
    fn details_stay_within_their_limit_and_tell_the_bad_first() {
        let paths: Vec<PathBuf> = (0..100).map(|n| format!("/a/path/of/some/length/{n}").into()).collect();
        let mut states: Vec<_> = paths.iter().map(|path| (path, State::Exists)).collect();
        states[99].1 = State::Missing;
        let text = details(&states);
        assert!(text.len() <= DETAILS_BYTES && text.contains("missing"), "{text}");
    }

    #[tokio::test]
    async fn while_one_check_hangs_no_other_of_its_paths_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (turns, way) = (Turns::new(), Way::new(Arc::<Progress>::default()));
        let probe = probe(&[folder.path()]);
        let hanging = turns.at(&probe.paths).acquire_owned().await.unwrap();
        for _ in 0..3 {
            let waiting = tokio::time::timeout(Duration::from_millis(20), send(&probe, &way, &turns));
            assert!(waiting.await.is_err());
        }
        assert_eq!(way.timed_out().reason, Reason::Timeout);
        assert_eq!(turns.places.available_permits(), AT_ONCE, "waiting takes no thread");
        drop(hanging);
        assert_eq!(send(&probe, &way, &turns).await.unwrap().findings, []);
        turns.at(&[]);
        assert_eq!(turns.taken.lock().unwrap().len(), 1, "what nobody waits for is forgotten");
    }
}
