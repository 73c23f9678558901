//! A TCP proxy between a ledger and PostgreSQL that stops passing anything on in the middle of a
//! transaction: at a statement that a test names, and until it is healed. To the server that is a
//! client that froze, or whose network is gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bytes of a Sync message, with which the driver ends whatever it sends at a time.
const SYNC_BYTES: usize = 5;

/// How much of the statement's message still gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing: the server waits for the transaction's next statement.
    Whole,
    /// Half of it: the server is in the middle of a message.
    InTheMiddle,
    /// All but the Sync: the server has done what it was told, and waits to be told to answer.
    BeforeItsSync,
}

impl Cut {
    pub(crate) const ALL: [Self; 3] = [Self::Whole, Self::InTheMiddle, Self::BeforeItsSync];
}

#[derive(Default)]
struct State {
    armed: Option<(&'static str, Cut)>,
    stalled: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct StallingProxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl StallingProxy {
    /// Listens, and passes on to `target` until told otherwise.
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let of_listener = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let pairs = [(&client, &server, true), (&server, &client, false)];
                for (from, to, upwards) in pairs {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("a socket"), to.expect("a socket"));
                    let shared = Arc::clone(&of_listener);
                    std::thread::spawn(move || pass_on(&shared, from, to, upwards));
                }
            }
        });
        Self { address, shared }
    }

    /// Stalls when a client sends this text, which the driver does the first time that a connection
    /// carries out a statement.
    pub(crate) fn stall_at(&self, text: &'static str, cut: Cut) {
        self.shared.lock().armed = Some((text, cut));
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.shared.lock().stalled
    }

    /// Passes on what was kept back, and everything from then on.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.lock();
        state.stalled = false;
        state.armed = None;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_healed(&self) {
        let mut state = self.lock();
        while state.stalled {
            let waited = self.changed.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How much of these bytes still gets through before it stalls, if it does.
    fn stalls_in(&self, bytes: &[u8]) -> Option<usize> {
        let mut state = self.lock();
        let (text, cut) = state.armed?;
        if !bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            return None;
        }
        state.stalled = true;
        Some(match cut {
            Cut::Whole => 0,
            Cut::InTheMiddle => bytes.len() / 2,
            Cut::BeforeItsSync => bytes.len() - SYNC_BYTES,
        })
    }
}

fn pass_on(shared: &Shared, mut from: TcpStream, mut to: TcpStream, upwards: bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        shared.wait_until_healed();
        let first = if upwards { shared.stalls_in(bytes) } else { None };
        let (now, later) = bytes.split_at(first.unwrap_or(0));
        if to.write_all(now).is_err() {
            break;
        }
        shared.wait_until_healed();
        if to.write_all(later).is_err() {
            break;
        }
    }
    // What ends on one side ends on the other, but not before it is healed.
    shared.wait_until_healed();
    let _ended_already = to.shutdown(Shutdown::Both);
    let _ended_already = from.shutdown(Shutdown::Both);
}
