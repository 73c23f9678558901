//! A connection that is always there again: a supervisor watches it, drops it when it is broken
//! and builds another one, with jittered backoff and for ever.
//!
//! The client library's own recovery stays off: it gives up after some attempts and does not
//! recover errors of a channel.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use lapin::tcp::{AMQPUriTcpExt, TLSConfig};
use lapin::types::ShortString;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::target::{Target, Trouble};
use super::topology;
use crate::error::Result;

/// Time to connect, encrypt and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one answer of the broker, or for a few that belong together.
pub(super) const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an orderly close; a peer that does not answer is left alone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection is looked at that says nothing about its end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Delays between attempts, without an end. Jitter at most doubles a delay.
pub(super) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(super) fn new() -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(SHORTEST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .without_max_times()
            .with_jitter();
        Self(builder.build())
    }

    pub(super) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST_DELAY)
    }
}

/// One connection, from login to its end.
pub(super) struct Session {
    connection: Connection,
    broken: CancellationToken,
    blocked_because: Mutex<String>,
    broken_because: Mutex<Option<String>>,
}

impl Session {
    /// Connects, logs in and declares what is ours.
    async fn connect(target: &Target, role: &str) -> Result<Arc<Self>> {
        let connecting = Box::pin(connect(target, role));
        let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(Trouble::from),
            Err(_) => Err(Trouble::Silent(CONNECT_TIMEOUT)),
        };
        let session = Arc::new(Self {
            connection: connection.map_err(|trouble| target.error("connect", trouble))?,
            broken: CancellationToken::new(),
            blocked_because: Mutex::default(),
            broken_because: Mutex::default(),
        });
        let declared = session.rpc(async {
            let channel = session.connection.create_channel().await?;
            topology::declare(&channel, target).await
        });
        let action = format!("declare the exchanges and queues {}.*", target.prefix());
        declared.await.map_err(|trouble| target.error(&action, trouble))?;
        Ok(session)
    }

    /// Waits for an answer of the broker, but not for ever. Silence ends the connection.
    pub(super) async fn rpc<T>(
        &self,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> std::result::Result<T, Trouble> {
        let answer = self.ask(call).await;
        // The client writes nothing while it is blocked: its silence proves nothing.
        if matches!(answer, Err(Trouble::Silent(_))) && self.blocked().is_none() {
            self.give_up("the broker does not answer");
        }
        answer
    }

    /// As [`Session::rpc`], for questions that are not worth the connection, and with it every
    /// delivery that is being worked on.
    pub(super) async fn ask<T>(
        &self,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> std::result::Result<T, Trouble> {
        let answered = tokio::select! {
            biased;
            answered = timeout(RPC_TIMEOUT, call) => answered,
            () = self.lost() => return Err(Trouble::Lost),
        };
        match answered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if !self.connection.status().connected() {
                    self.give_up(&error);
                }
                Err(error.into())
            }
            Err(_) => Err(Trouble::Silent(RPC_TIMEOUT)),
        }
    }

    /// Opens a channel. Not bounded: to be called inside [`Session::rpc`] or [`Session::ask`].
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }

    /// Has the supervisor drop this connection and build another one.
    pub(super) fn give_up(&self, why: impl Display) {
        let mut because = self.broken_because.lock().unwrap_or_else(PoisonError::into_inner);
        because.get_or_insert_with(|| why.to_string());
        drop(because);
        self.broken.cancel();
    }

    /// Whether this connection is not given up. It may be broken, and nobody has noticed yet.
    pub(super) fn is_alive(&self) -> bool {
        !self.broken.is_cancelled() && self.connection.status().connected()
    }

    /// Returns when this connection is given up.
    pub(super) async fn lost(&self) {
        self.broken.cancelled().await;
    }

    /// Why the broker takes no messages from this connection now, if it does not: an alarm of
    /// memory or disk.
    pub(super) fn blocked(&self) -> Option<String> {
        self.connection.status().blocked().then(|| {
            let because = self.blocked_because.lock().unwrap_or_else(PoisonError::into_inner);
            format!("the broker blocks publishers ({because}); free memory or disk on its host")
        })
    }

    /// Watches the connection until its end; returns the reason.
    async fn until_broken(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut listening = true;
        while self.is_alive() {
            let event = tokio::select! {
                () = self.lost() => break,
                () = sleep(LOOK_INTERVAL) => continue,
                event = events.next(), if listening => event,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(reason, "RabbitMQ blocks publishers: an alarm of memory or disk");
                    let mut because =
                        self.blocked_because.lock().unwrap_or_else(PoisonError::into_inner);
                    *because = reason;
                }
                Some(Event::ConnectionUnblocked) => info!("RabbitMQ takes messages again"),
                // Errors of a channel come this way too; its user hears of them as well.
                Some(Event::Error(error)) if !self.is_alive() => self.give_up(error),
                Some(_) => {}
                None => listening = false,
            }
        }
        self.give_up("the connection ended");
        let because = self.broken_because.lock().unwrap_or_else(PoisonError::into_inner);
        because.clone().unwrap_or_default()
    }

    async fn close(&self) {
        if self.connection.status().connected() {
            let closing = self.connection.close(200, ShortString::default());
            if !matches!(timeout(CLOSE_TIMEOUT, closing).await, Ok(Ok(()))) {
                debug!("a broken connection to RabbitMQ was left without a close");
            }
        }
    }
}

async fn connect(target: &Target, role: &str) -> lapin::Result<Connection> {
    let name = format!("{} {role}", target.name());
    let properties = ConnectionProperties::default()
        .with_client_property("product".into(), "DES Fleet".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
        .with_connection_name(name.into());
    // The library connects on a thread of its own, which a dropped future does not end: the
    // bound has to be inside.
    Connection::connector(
        target.uri(),
        lapin::runtime::default_runtime()?,
        async |uri, runtime| {
            let stream = uri.connect_with_config_async(TLSConfig::default(), &runtime);
            let stream = timeout(CONNECT_TIMEOUT, stream).await;
            let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            stream.map_err(lapin::Error::from)
        },
        properties,
    )
    .await
}

/// A supervised connection. Dropping it ends the connection.
pub(super) struct Link {
    sessions: watch::Receiver<Option<Arc<Session>>>,
    trouble: Arc<Mutex<String>>,
    _supervisor: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects for the first time, so that wrong settings are told at once; `role` says what
    /// the connection is for.
    ///
    /// # Errors
    /// Whatever the first attempt met.
    pub(super) async fn open(target: Arc<Target>, role: &'static str) -> Result<Self> {
        let first = Session::connect(&target, role).await?;
        let trouble = Arc::new(Mutex::default());
        let (sender, sessions) = watch::channel(Some(Arc::clone(&first)));
        let supervisor = Supervisor { target, role, sender, trouble: Arc::clone(&trouble) };
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervisor.run(first)));
        Ok(Self { sessions, trouble, _supervisor: supervisor })
    }

    /// The connection, if there is one now.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.sessions.borrow().clone().filter(|session| session.is_alive())
    }

    /// Waits for a connection, for ever: callers bring their own bound.
    pub(super) async fn session(&self) -> Arc<Session> {
        let mut sessions = self.sessions.clone();
        let up = |session: &Option<Arc<Session>>| {
            session.as_ref().is_some_and(|session| !session.broken.is_cancelled())
        };
        match sessions.wait_for(up).await.map(|session| session.clone()) {
            Ok(Some(session)) => session,
            // The supervisor ends with the link or with the runtime, and we with either.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Why there is no connection, as far as it is known.
    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Supervisor {
    target: Arc<Target>,
    role: &'static str,
    sender: watch::Sender<Option<Arc<Session>>>,
    trouble: Arc<Mutex<String>>,
}

impl Supervisor {
    async fn run(self, first: Arc<Session>) {
        let mut session = first;
        loop {
            let reason = session.until_broken().await;
            self.note(&reason);
            self.sender.send_replace(None);
            warn!(
                broker = self.target.label(),
                connection = self.role,
                reason,
                "the connection to RabbitMQ broke; connecting again"
            );
            session.close().await;
            session = self.reconnect().await;
            self.sender.send_replace(Some(Arc::clone(&session)));
            info!(broker = self.target.label(), connection = self.role, "connected to RabbitMQ");
        }
    }

    async fn reconnect(&self) -> Arc<Session> {
        let mut backoff = Backoff::new();
        let mut told = false;
        loop {
            sleep(backoff.next_delay()).await;
            match Session::connect(&self.target, self.role).await {
                Ok(session) => return session,
                Err(error) => {
                    self.note(&error);
                    if told {
                        debug!(connection = self.role, %error, "still without RabbitMQ");
                    } else {
                        warn!(connection = self.role, %error, "no connection; trying for ever");
                        told = true;
                    }
                }
            }
        }
    }

    fn note(&self, trouble: impl Display) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.to_string();
    }
}
