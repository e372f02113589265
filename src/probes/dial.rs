//! The one way to a target for every protocol but HTTP: resolve, judge the address, connect, speak TLS; each phase is
//! marked, and all of it runs under the deadline of the check. HTTP goes the same way inside reqwest (see `trace`).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::trace::{GuardedResolver, is_local};
use super::{Progress, Step};
use crate::domain::egress::{EgressPolicy, Trust};
use crate::domain::observation::{Phases, ProbeFailure, Reason};
use crate::domain::probe::Target;

/// A connection not established by then is attempted a second time beside the first: CONTRACT.md 6.2.
pub(super) const SECOND_ATTEMPT_AFTER: Duration = Duration::from_millis(300);

/// How far a probe has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Begun,
    Resolving,
    Connecting,
    Handshaking,
    Waiting,
}

#[derive(Debug, Default)]
struct Course {
    stage: Stage,
    phases: Phases,
    began: Option<Instant>,
    sent: Option<Instant>,
}

/// Marks where the time of one probe goes.
#[derive(Debug)]
pub(super) struct Way {
    progress: Arc<Progress>,
    course: Mutex<Course>,
}

impl Way {
    pub fn new(progress: Arc<Progress>) -> Self {
        Self { progress, course: Mutex::default() }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        let mut course = self.course();
        (course.stage, course.began) = (stage, Some(Instant::now()));
    }

    /// The phase entered last has ended.
    fn leave(&self) {
        let mut course = self.course();
        let took = course.began.take().map(|began| began.elapsed());
        match course.stage {
            Stage::Resolving => course.phases.resolve = took,
            Stage::Connecting => course.phases.connect = took,
            Stage::Handshaking => course.phases.tls = took,
            Stage::Begun | Stage::Waiting => {}
        }
        // What comes between two phases is the peer's answer that is waited for.
        course.stage = Stage::Begun;
    }

    /// The TLS handshake begins.
    pub fn handshaking(&self) {
        self.enter(Stage::Handshaking);
    }

    /// The TLS handshake is done.
    pub fn handshaken(&self) {
        self.leave();
    }

    /// The request goes out now: from here on the response is timed.
    pub fn sent(&self) {
        let now = Instant::now();
        let mut course = self.course();
        (course.stage, course.sent) = (Stage::Waiting, Some(now));
        self.progress.set(Step::Sent(now));
    }

    /// The response is there; only the first call counts.
    pub fn answered(&self) {
        let mut course = self.course();
        if course.phases.response.is_none() {
            course.phases.response = course.sent.map(|sent| sent.elapsed());
        }
        self.progress.set(Step::Answered);
    }

    /// Where a phase of the way is itself what is judged (time to connect, handshake), this is the response time.
    pub fn answered_by(&self, phase: impl Fn(&Phases) -> Option<Duration>) {
        let mut course = self.course();
        course.phases.response = phase(&course.phases);
        self.progress.set(Step::Answered);
    }

    pub fn phases(&self) -> Phases {
        self.course().phases
    }

    /// What the deadline cut off.
    pub fn timed_out(&self) -> ProbeFailure {
        let reason = match self.course().stage {
            Stage::Resolving => Reason::Dns,
            Stage::Connecting => Reason::ConnectTimeout,
            Stage::Begun | Stage::Handshaking | Stage::Waiting => Reason::Timeout,
        };
        ProbeFailure::new(reason, "no answer in time")
    }
}

/// Finds and reaches targets under the egress rule.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    egress: Arc<EgressPolicy>,
    resolver: Arc<GuardedResolver>,
}

impl Dialer {
    pub fn new(egress: Arc<EgressPolicy>, resolver: Arc<GuardedResolver>) -> Self {
        Self { egress, resolver }
    }

    /// The permitted addresses of `target`.
    ///
    /// # Errors
    /// `dns`, `egress_denied` or `local_resource`.
    pub async fn addresses(&self, target: &Target, way: &Way) -> Result<Vec<SocketAddr>, ProbeFailure> {
        let denied = |address: &str| ProbeFailure::new(Reason::EgressDenied, address);
        if let Ok(ip) = target.host.parse::<IpAddr>() {
            self.permit(SocketAddr::new(ip, target.port), target.trust)?;
            return Ok(vec![SocketAddr::new(ip, target.port)]);
        }
        if !self.egress.permits_name(&target.host) {
            return Err(denied(&target.host));
        }
        way.enter(Stage::Resolving);
        let found = self.resolver.addresses(&target.host, target.port).await?;
        way.leave();
        let permitted: Vec<SocketAddr> =
            found.iter().copied().filter(|address| self.egress.permits(*address, target.trust)).collect();
        match (found.first(), permitted.is_empty()) {
            (Some(first), true) => Err(denied(&first.ip().to_string())),
            (None, _) => Err(ProbeFailure::new(Reason::Dns, "no addresses")),
            _ => Ok(permitted),
        }
    }

    /// # Errors
    /// `egress_denied`.
    pub fn permit(&self, address: SocketAddr, trust: Trust) -> Result<(), ProbeFailure> {
        if self.egress.permits(address, trust) {
            return Ok(());
        }
        Err(ProbeFailure::new(Reason::EgressDenied, address.ip().to_string()))
    }

    /// A connection to `target`: its addresses in turn, and after a short while without an answer a second attempt
    /// beside the first.
    ///
    /// # Errors
    /// As [`Self::addresses`]; `connect_refused`, `connect_timeout`.
    pub async fn connect(&self, target: &Target, way: &Way) -> Result<TcpStream, ProbeFailure> {
        let addresses = self.addresses(target, way).await?;
        way.enter(Stage::Connecting);
        let mut first = std::pin::pin!(in_turn(&addresses));
        let stream = match tokio::time::timeout(SECOND_ATTEMPT_AFTER, &mut first).await {
            Ok(done) => done,
            Err(_) => {
                let others: Vec<SocketAddr> = addresses.iter().rev().copied().collect();
                let second = std::pin::pin!(in_turn(&others));
                match select(first, second).await {
                    Either::Left((Err(_), other)) => other.await,
                    Either::Right((Err(_), other)) => other.await,
                    Either::Left((done, _)) | Either::Right((done, _)) => done,
                }
            }
        }
        .map_err(|error| failure(&error))?;
        way.leave();
        // Small requests, each waited for: nothing to gather.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

async fn in_turn(addresses: &[SocketAddr]) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("no addresses");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why there is no connection.
fn failure(error: &std::io::Error) -> ProbeFailure {
    use rustix::io::Errno;
    let unreachable = [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH];
    let reason = match error.raw_os_error() {
        Some(code) if is_local(code) => Reason::LocalResource,
        Some(code) if unreachable.iter().any(|errno| errno.raw_os_error() == code) => Reason::ConnectTimeout,
        _ => Reason::ConnectRefused,
    };
    ProbeFailure::new(reason, error.to_string())
}

/// A conversation that broke off: our own want of sockets or memory, else not an answer of the protocol.
pub(super) fn broken(error: &std::io::Error) -> ProbeFailure {
    let reason = if error.raw_os_error().is_some_and(is_local) { Reason::LocalResource } else { Reason::Protocol };
    ProbeFailure::new(reason, error.to_string())
}
