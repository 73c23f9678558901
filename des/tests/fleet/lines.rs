//! Lines between a process and a server, on which a test decides what becomes of what goes over them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes in whose place others of the same length arrive.
pub(crate) type Change = (&'static [u8], &'static [u8]);

/// What arrives changed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Changes {
    /// At the server.
    pub(crate) upwards: Option<Change>,
    /// At the client.
    pub(crate) downwards: Option<Change>,
}

/// A line to a server that can be slow, or cut: whatever goes over it ends then, and nothing new
/// begins.
#[derive(Default)]
pub(crate) struct Line {
    is_cut: AtomicBool,
    /// In milliseconds, each way.
    delay: AtomicU64,
    ends: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// The line, and where it begins.
    pub(crate) fn to(server: SocketAddr) -> (Arc<Self>, SocketAddr) {
        Self::that_changes(Changes::default(), server)
    }

    /// The same, of a line that changes what goes over it.
    pub(crate) fn that_changes(changes: Changes, server: SocketAddr) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let line = Arc::new(Self::default());
        let of_listener = Arc::clone(&line);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let two = || [&client, &server].map(|end| end.try_clone().expect("a socket"));
                of_listener.ends.lock().unwrap_or_else(PoisonError::into_inner).extend(two());
                if of_listener.is_cut.load(Ordering::Relaxed) {
                    of_listener.end_all();
                    continue;
                }
                for (reversed, change) in [(false, changes.upwards), (true, changes.downwards)] {
                    let [mut from, mut to] = two();
                    if reversed {
                        std::mem::swap(&mut from, &mut to);
                    }
                    let line = Arc::clone(&of_listener);
                    std::thread::spawn(move || line.pass_on(from, to, change));
                }
            }
        });
        (line, address)
    }

    fn pass_on(&self, mut from: TcpStream, mut to: TcpStream, change: Option<Change>) {
        let (mut kept, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
            kept.extend_from_slice(&chunk[..count]);
            let whole = change.map_or(kept.len(), |change| replace(&mut kept, change));
            if to.write_all(&kept[..whole]).is_err() {
                break;
            }
            kept.drain(..whole);
        }
        let _ended_already = [from, to].map(|end| end.shutdown(Shutdown::Both));
    }

    fn end_all(&self) {
        for end in self.ends.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ended_already = end.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.end_all();
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }

    /// From now on everything takes so much longer, each way.
    pub(crate) fn delay(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("not for ever");
        self.delay.store(by, Ordering::Relaxed);
    }
}

/// Replaces what is to be replaced; how many bytes may go on, since none of what is wanted begins
/// at their end.
fn replace(bytes: &mut [u8], (wanted, instead): Change) -> usize {
    assert_eq!(wanted.len(), instead.len(), "what tells lengths goes over the line, too");
    let mut at = 0;
    while at < bytes.len() {
        let rest = &mut bytes[at..];
        if let Some(found) = rest.get_mut(..wanted.len()) {
            if found == wanted {
                found.copy_from_slice(instead);
            }
        } else if wanted.starts_with(rest) {
            break;
        }
        at += 1;
    }
    at
}
