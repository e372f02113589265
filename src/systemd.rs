//! Tells systemd how the service is, over the socket it names in `NOTIFY_SOCKET`; says nothing where there is none.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to the process that supervises this one.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// It wants to hear of us this often.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Reads what systemd has put into the environment.
    pub fn new(variables: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| variables.get(name).and_then(|text| text.parse::<u64>().ok());
        // A watchdog set for another process, such as a wrapper around this one, is not ours to feed.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        let socket = variables.get("NOTIFY_SOCKET").filter(|path| !path.is_empty()).and_then(|path| {
            connect(path).inspect_err(|error| tracing::warn!(%error, "systemd cannot be told anything")).ok()
        });
        Self { socket: socket.map(Arc::new), watchdog }
    }

    /// How often [`Systemd::alive`] is expected, if it is.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// Serving.
    pub fn ready(&self, services: usize) {
        self.say(&format!("READY=1\nSTATUS=Watching {services} services"));
    }

    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=Reloading"));
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=Stopping");
    }

    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    pub fn status(&self, sentence: &str) {
        self.say(&format!("STATUS={sentence}"));
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = self.socket.as_deref() {
            // Whoever does not listen is not waited for.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

/// `path` is that of a socket, or `@` and an abstract name.
fn connect(path: &str) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd(more: &[(&str, String)]) -> Systemd {
        Systemd::new(&more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 200];
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn it_is_told_over_a_path_and_over_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = systemd(&[("NOTIFY_SOCKET", path.display().to_string())]);
        told.ready(9);
        assert_eq!(heard(&socket), "READY=1\nSTATUS=Watching 9 services");
        told.reloading();
        assert!(heard(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));

        let name = format!("test-{}-{}", std::process::id(), path.display());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        systemd(&[("NOTIFY_SOCKET", format!("@{name}"))]).stopping();
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=Stopping");
        // Nobody there, and nothing named: nothing happens.
        systemd(&[("NOTIFY_SOCKET", "/no/such/socket".to_owned())]).alive();
        systemd(&[]).alive();
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let socket = ("NOTIFY_SOCKET", "@x".to_owned());
        let check = |more: &[(&str, String)], expected: Option<Duration>| {
            assert_eq!(systemd(more).watchdog(), expected, "{more:?}");
        };
        let usec = ("WATCHDOG_USEC", "4000000".to_owned());
        check(&[socket.clone(), usec.clone()], Some(Duration::from_secs(4)));
        check(std::slice::from_ref(&usec), None);
        let own = ("WATCHDOG_PID", std::process::id().to_string());
        check(&[socket.clone(), usec.clone(), own], Some(Duration::from_secs(4)));
        check(&[socket, usec, ("WATCHDOG_PID", "1".to_owned())], None);
    }
}
