//! A TCP proxy that hands bytes on, or does to them what a bad network does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinHandle;

use super::kind::Harm;

const PIECE_BYTES: usize = 16 * 1024;
const LATE_BY: Duration = Duration::from_millis(40);
const NARROW_BYTES_PER_SECOND: u64 = 200_000;
/// A connection that carried nothing for so long is idle: to cut it proves little.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// How long a fault waits for traffic to meet.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How bytes go through now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Open,
    Late,
    Narrow,
    /// Nobody gets in, and nobody is in.
    Closed,
    HeldUp,
    HeldDown,
    Held,
}

/// The end of all connections that were there when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ending {
    number: u64,
    how: How,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum How {
    #[default]
    Cut,
    Reset,
    Slowly(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

struct State {
    mode: watch::Sender<Mode>,
    ending: watch::Sender<Ending>,
    /// Bytes that came in, of which some may be held.
    carried: AtomicU64,
    /// Connections with traffic when they were ended.
    ended_busy: AtomicU64,
    began: tokio::time::Instant,
    target: SocketAddr,
}

/// A proxy on a loopback port in front of one server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
    /// One fault at a time.
    turn: Mutex<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            mode: watch::Sender::default(),
            ending: watch::Sender::default(),
            carried: AtomicU64::new(0),
            ended_busy: AtomicU64::new(0),
            began: tokio::time::Instant::now(),
            target,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { port, state, accepting, turn: Mutex::new(()) })
    }
}

/// Does harm to all of these at once, for a while; how many bytes, or busy connections, it met.
/// Whoever harms several lists them in the order of [`super::ground::Ground`].
pub(crate) async fn harm(proxies: &[&Proxy], harm: Harm, lasts: Duration) -> u64 {
    let hold = hold(proxies, harm, lasts).await;
    tokio::time::sleep(lasts.max(Duration::from_millis(20))).await;
    if !hold.by_ending {
        wait_for_traffic(proxies, hold.carried).await;
    }
    hold.met()
}

/// Begins to do harm, which lasts until the answer is dropped.
pub(crate) async fn hold<'a>(proxies: &[&'a Proxy], harm: Harm, lasts: Duration) -> Hold<'a> {
    let mut turns = Vec::new();
    for proxy in proxies {
        turns.push(proxy.turn.lock().await);
    }
    let (carried, ended) = (carried(proxies), ended_busy(proxies));
    let (mode, end) = match harm {
        Harm::Latency => (Mode::Late, None),
        Harm::Bandwidth => (Mode::Narrow, None),
        Harm::BlackholeUp => (Mode::HeldUp, None),
        Harm::BlackholeDown => (Mode::HeldDown, None),
        Harm::Blackhole => (Mode::Held, None),
        Harm::Cut => (Mode::Closed, Some(How::Cut)),
        Harm::Reset => (Mode::Open, Some(How::Reset)),
        Harm::SlowClose => (Mode::Open, Some(How::Slowly(lasts))),
    };
    if end.is_some() {
        wait_for_traffic(proxies, carried).await;
    }
    let hold =
        Hold { proxies: proxies.to_vec(), by_ending: end.is_some(), carried, ended, _turns: turns };
    for proxy in proxies {
        proxy.state.mode.send_replace(mode);
        if let Some(how) = end {
            proxy.state.ending.send_modify(|ending| {
                *ending = Ending { number: ending.number + 1, how };
            });
        }
    }
    hold
}

/// Proxies that are harmed. They open again when it is dropped, also half-way through a fault.
pub(crate) struct Hold<'a> {
    proxies: Vec<&'a Proxy>,
    by_ending: bool,
    /// As of its beginning.
    carried: u64,
    ended: u64,
    _turns: Vec<MutexGuard<'a, ()>>,
}

impl Hold<'_> {
    /// How many bytes, or busy connections, it has met so far.
    pub(crate) fn met(&self) -> u64 {
        match self.by_ending {
            true => ended_busy(&self.proxies) - self.ended,
            false => carried(&self.proxies) - self.carried,
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.state.mode.send_replace(Mode::Open);
        }
    }
}

fn carried(proxies: &[&Proxy]) -> u64 {
    proxies.iter().map(|proxy| proxy.state.carried.load(Ordering::Relaxed)).sum()
}

fn ended_busy(proxies: &[&Proxy]) -> u64 {
    proxies.iter().map(|proxy| proxy.state.ended_busy.load(Ordering::Relaxed)).sum()
}

/// Waits a little for bytes beyond the first so many.
async fn wait_for_traffic(proxies: &[&Proxy], first: u64) {
    let longest = tokio::time::Instant::now() + LONGEST_WAIT;
    while carried(proxies) == first && tokio::time::Instant::now() < longest {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.ending.send_modify(|ending| ending.number += 1);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if *state.mode.borrow() != Mode::Closed {
            tokio::spawn(carry(client, Arc::clone(&state)));
        }
    }
}

async fn carry(client: TcpStream, state: Arc<State>) {
    let mut ending = state.ending.subscribe();
    let Ok(server) = TcpStream::connect(state.target).await else { return };
    let _slower_without = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client, mut server) = (client, server);
    let last = AtomicU64::new(0);
    let ended = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let both = async {
            let up = pump(&mut from_client, &mut to_server, Way::Up, &state, &last);
            let down = pump(&mut from_server, &mut to_client, Way::Down, &state, &last);
            tokio::join!(up, down)
        };
        tokio::select! {
            _both_ended = both => None,
            _changed = ending.changed() => Some(ending.borrow_and_update().how),
        }
    };
    let Some(how) = ended else { return };
    let idle = state.now().saturating_sub(last.load(Ordering::Relaxed));
    if u128::from(idle) < BUSY_FOR.as_millis() {
        state.ended_busy.fetch_add(1, Ordering::Relaxed);
    }
    match how {
        How::Cut => {}
        How::Reset => {
            let _closed_then = (client.set_zero_linger(), server.set_zero_linger());
        }
        How::Slowly(lasts) => {
            let _gone_already = client.shutdown().await;
            drop(server);
            let mut thrown_away = vec![0; PIECE_BYTES];
            let discard = async { while matches!(client.read(&mut thrown_away).await, Ok(1..)) {} };
            let _ended_by_itself = tokio::time::timeout(lasts, discard).await;
        }
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Hands bytes on in one direction until that side ends.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    way: Way,
    state: &State,
    last: &AtomicU64,
) {
    let mut mode = state.mode.subscribe();
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        state.carried.fetch_add(count as u64, Ordering::Relaxed);
        last.store(state.now(), Ordering::Relaxed);
        if !pass(&mut mode, way, count as u64).await {
            return;
        }
        let Some(bytes) = piece.get(..count) else { break };
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _gone_already = to.shutdown().await;
}

/// Waits until so many bytes may go on; false when the proxy is gone.
async fn pass(mode: &mut watch::Receiver<Mode>, way: Way, bytes: u64) -> bool {
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Held => {}
            Mode::HeldUp if way == Way::Up => {}
            Mode::HeldDown if way == Way::Down => {}
            Mode::Late => {
                tokio::time::sleep(LATE_BY).await;
                return true;
            }
            Mode::Narrow => {
                let micros = bytes * 1_000_000 / NARROW_BYTES_PER_SECOND;
                tokio::time::sleep(Duration::from_micros(micros)).await;
                return true;
            }
            Mode::Open | Mode::Closed | Mode::HeldUp | Mode::HeldDown => return true,
        }
        if mode.changed().await.is_err() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = socket.split();
                    let _hung_up = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn asked(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_go_through_and_a_busy_connection_is_cut() {
        let proxy = Proxy::start(echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("connected");
        assert_eq!(&asked(&mut stream).await.expect("an answer"), b"ping");
        let proxies = [&proxy];
        let (met, ()) = tokio::join!(harm(&proxies, Harm::Reset, Duration::ZERO), async {
            while asked(&mut stream).await.is_ok() {}
        });
        assert_eq!(met, 1);
        let mut again = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("connected");
        assert_eq!(&asked(&mut again).await.expect("an answer"), b"ping");
    }

    #[tokio::test]
    async fn a_blackhole_holds_until_it_is_over() {
        for harm in [Harm::BlackholeUp, Harm::BlackholeDown, Harm::Blackhole] {
            let proxy = Proxy::start(echo().await).await.expect("a proxy");
            let address = ("127.0.0.1", proxy.port);
            let mut stream = TcpStream::connect(address).await.expect("connected");
            asked(&mut stream).await.expect("an answer");
            let held = hold(&[&proxy], harm, Duration::ZERO).await;
            let patience = Duration::from_millis(200);
            let answer = tokio::time::timeout(patience, asked(&mut stream)).await;
            assert!(answer.is_err(), "{harm:?} lets an answer through");
            assert!(held.met() >= 4, "what {harm:?} held was not counted");
            drop(held);
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.expect("what was held");
            assert_eq!(&answer, b"ping");
        }
    }

    #[tokio::test]
    async fn one_process_is_harmed_and_the_other_goes_on() {
        let server = echo().await;
        let alone = Proxy::start(server).await.expect("a proxy");
        let other = Proxy::start(server).await.expect("a proxy");
        let mut stream = TcpStream::connect(("127.0.0.1", other.port)).await.expect("connected");
        let held = hold(&[&alone], Harm::Blackhole, Duration::ZERO).await;
        assert_eq!(&asked(&mut stream).await.expect("an answer"), b"ping");
        assert_eq!(held.met(), 0);
    }
}
