//! Where the time of one HTTP attempt goes, and whether its address is allowed: marks set from inside reqwest's
//! connector, resolver and TLS, which all run in the task of the request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Progress, Step};
use crate::domain::egress::{EgressPolicy, Trust};
use crate::domain::observation::{Phases, ProbeFailure, Reason};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

tokio::task_local! {
    /// The attempt that runs in this task.
    pub(super) static TRACE: Arc<Trace>;
    /// Which of two attempts at it this is: 1 or 2.
    pub(super) static ATTEMPT: u8;
}

/// One attempt to send one request.
#[derive(Debug)]
pub(super) struct Trace {
    trust: Trust,
    port: u16,
    progress: Arc<Progress>,
    /// The first of two attempts to have a connection, 0 while none has: that one carries the request.
    winner: AtomicU8,
    marks: Mutex<Marks>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Marks {
    pub resolving: Option<Instant>,
    pub resolved: Option<Instant>,
    /// A new connection was begun; unset on a reused one.
    pub connecting: Option<Instant>,
    pub handshake: Option<Instant>,
    pub connected: Option<Instant>,
    /// Every address of the host is forbidden; the first of them.
    pub denied: Option<SocketAddr>,
    pub unresolved: Option<String>,
    /// The resolver itself had no sockets or memory left.
    pub local: Option<String>,
}

impl Trace {
    pub fn new(trust: Trust, port: u16, progress: Arc<Progress>) -> Arc<Self> {
        Arc::new(Self { trust, port, progress, winner: AtomicU8::new(0), marks: Mutex::default() })
    }

    fn set(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn marks(&self) -> Marks {
        self.set().clone()
    }

    /// The request goes out now, on a connection that was there.
    pub fn sent(&self) {
        self.progress.set(Step::Sent(Instant::now()));
    }

    /// No connection was there, a new one is made.
    pub fn began_connection(&self) -> bool {
        self.set().connecting.is_some()
    }

    /// The attempt that carries the request, 0 while none does.
    pub fn winner(&self) -> u8 {
        self.winner.load(Ordering::Relaxed)
    }

    /// A TCP connection is being waited for.
    pub fn is_connecting(&self) -> bool {
        let marks = self.set();
        marks.connecting.is_some() && marks.handshake.is_none() && marks.connected.is_none()
    }
}

impl Marks {
    /// The phases before the response.
    pub fn phases(&self) -> Phases {
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        Phases {
            resolve: between(self.resolving, self.resolved),
            connect: between(self.resolved.or(self.connecting), self.handshake.or(self.connected)),
            tls: between(self.handshake, self.connected),
            response: None,
        }
    }
}

fn with_trace(mark: impl FnOnce(&Trace)) {
    // Outside a request (a connection the pool finishes in the background) there is nothing to mark.
    let _ = TRACE.try_with(|trace| mark(trace));
}

/// Marks the beginning and end of each new connection.
#[derive(Debug, Clone)]
pub(super) struct Marking;

impl<S> Layer<S> for Marking {
    type Service = Marked<S>;

    fn layer(&self, inner: S) -> Marked<S> {
        Marked(inner)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Marked<S>(S);

impl<S, R> Service<R> for Marked<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        with_trace(|trace| {
            trace.set().connecting.get_or_insert_with(Instant::now);
        });
        let connecting = self.0.call(request);
        Box::pin(async move {
            let connection = connecting.await?;
            let mut lost = false;
            with_trace(|trace| {
                let this = ATTEMPT.try_with(|number| *number).unwrap_or(1);
                lost = trace.winner.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed).is_err();
                if !lost {
                    trace.set().connected = Some(Instant::now());
                    trace.sent();
                }
            });
            if lost {
                // The other attempt carries the request; this one is dropped with it.
                std::future::pending::<()>().await;
            }
            Ok(connection)
        })
    }
}

/// Resolves names without blocking, under the egress rule: only permitted addresses come out.
#[derive(Debug, Clone)]
pub(super) struct GuardedResolver {
    resolver: TokioResolver,
    egress: Arc<EgressPolicy>,
}

impl GuardedResolver {
    /// # Errors
    /// The resolver cannot be set up.
    pub fn new(egress: Arc<EgressPolicy>) -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no resolver configuration on this system: only addresses and /etc/hosts will resolve");
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self { resolver: builder.build()?, egress })
    }
}

/// Our own sockets, ports or memory are used up: EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL.
pub(super) fn is_local(os_error: i32) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| errno.raw_os_error() == os_error)
}

impl GuardedResolver {
    /// Every address of `host`, judged by nobody yet.
    ///
    /// # Errors
    /// `dns`, or `local_resource` when our own sockets are used up.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ProbeFailure> {
        match self.resolver.lookup_ip(host).await {
            Ok(found) => Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect()),
            Err(NetError::Io(cause)) if cause.raw_os_error().is_some_and(is_local) => {
                Err(ProbeFailure::new(Reason::LocalResource, cause.to_string()))
            }
            Err(error) => Err(ProbeFailure::new(Reason::Dns, error.to_string())),
        }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            // A connection finished in the background belongs to no probe any more: the stricter rule.
            let (trust, port) = TRACE.try_with(|trace| (trace.trust, trace.port)).unwrap_or((Trust::Fenced, 0));
            with_trace(|trace| {
                trace.set().resolving.get_or_insert_with(Instant::now);
            });
            let found = this.resolver.lookup_ip(name.as_str()).await;
            with_trace(|trace| {
                trace.set().resolved.get_or_insert_with(Instant::now);
            });
            let addresses: Vec<SocketAddr> = match found {
                Ok(found) => found.iter().map(|ip| SocketAddr::new(ip, port)).collect(),
                Err(error) => {
                    let text = error.to_string();
                    if let NetError::Io(cause) = &error
                        && cause.raw_os_error().is_some_and(is_local)
                    {
                        with_trace(|trace| trace.set().local = Some(cause.to_string()));
                    }
                    with_trace(|trace| trace.set().unresolved = Some(text.clone()));
                    return Err(text.into());
                }
            };
            let permitted: Vec<SocketAddr> =
                addresses.iter().copied().filter(|address| this.egress.permits(*address, trust)).collect();
            if let (Some(first), true) = (addresses.first(), permitted.is_empty()) {
                with_trace(|trace| trace.set().denied = Some(*first));
                return Err("address not allowed".into());
            }
            // Port 0 tells the connector to use the one of the URL.
            let addresses = permitted.into_iter().map(|address| SocketAddr::new(address.ip(), 0));
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Marks the start of each TLS handshake: the session store is asked when the first message is written. It keeps
/// nothing, so that every probe with a new connection pays a full handshake, as a new client would.
#[derive(Debug)]
pub(super) struct HandshakeMark;

impl HandshakeMark {
    fn mark() {
        with_trace(|trace| {
            trace.set().handshake.get_or_insert_with(Instant::now);
        });
    }
}

impl ClientSessionStore for HandshakeMark {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        Self::mark();
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        Self::mark();
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        Self::mark();
        None
    }
}
