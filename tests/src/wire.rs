//! A stretch of network between two programs on this machine, which can break.
//!
//! Bytes are forwarded unchanged, both ways, until something goes wrong on purpose: an answer is cut in its middle. What
//! the programs see is a broken connection, not an error that somebody was kind enough to send.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;

/// What goes wrong on the way.
#[derive(Debug, Default)]
struct Trouble {
    /// How many more answers are cut.
    cuts: AtomicU64,
    /// After how many bytes.
    cut_after: AtomicU64,
    /// How many were cut.
    cut: AtomicU64,
    over: AtomicBool,
}

/// A forwarded port.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    trouble: Arc<Trouble>,
}

impl Wire {
    /// Forwards a free port of the loopback to `target`, on threads of its own, until it is dropped.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let wire = Self {
            address: listener.local_addr()?,
            trouble: Arc::default(),
        };
        let trouble = Arc::clone(&wire.trouble);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if trouble.over.load(Ordering::Relaxed) {
                    return;
                }
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) {
                    // A connection that cannot be forwarded is closed.
                    let _ = forward(client, server, &trouble);
                }
            }
        });
        Ok(wire)
    }

    /// Where it is entered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the next `count` answers that are longer than `after` bytes, at that place.
    pub fn cut_answers(&self, count: u64, after: u64) {
        self.trouble.cut_after.store(after, Ordering::Relaxed);
        self.trouble.cuts.store(count, Ordering::Relaxed);
    }

    /// How many answers were cut so far.
    pub fn cut(&self) -> u64 {
        self.trouble.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.trouble.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

fn forward(client: TcpStream, server: TcpStream, trouble: &Arc<Trouble>) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Bytes of the answer under way; a request begins a new one.
    let answered = Arc::new(AtomicU64::new(0));
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let asked = Arc::clone(&answered);
    std::thread::spawn(move || {
        pump(&mut from, &mut to, |_| {
            asked.store(0, Ordering::Relaxed);
            true
        });
    });
    let (mut from, mut to, trouble) = (server, client, Arc::clone(trouble));
    std::thread::spawn(move || {
        pump(&mut from, &mut to, |bytes| {
            let so_far = answered.fetch_add(bytes, Ordering::Relaxed) + bytes;
            so_far <= trouble.cut_after.load(Ordering::Relaxed) || !trouble.takes_cut()
        });
    });
    Ok(())
}

impl Trouble {
    /// Whether this answer is one of those to be cut.
    fn takes_cut(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let order = Ordering::Relaxed;
        let cut = self.cuts.fetch_update(order, order, one_less).is_ok();
        if cut {
            self.cut.fetch_add(1, order);
        }
        cut
    }
}

/// Copies until either side ends or `goes_on` says no; then both directions are closed.
fn pump(from: &mut TcpStream, to: &mut TcpStream, goes_on: impl Fn(u64) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !goes_on(count as u64) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every connection with a million bytes.
    fn talker() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().take(2).flatten() {
                let mut stream = stream;
                let mut asked = [0];
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(&vec![7; 1_000_000]);
            }
        });
        Ok(address)
    }

    fn ask(address: SocketAddr) -> Result<usize> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"?")?;
        let mut answer = Vec::new();
        // A cut may look like an end or like an error.
        let _ = stream.read_to_end(&mut answer);
        Ok(answer.len())
    }

    #[test]
    fn answers_are_cut_as_often_as_asked() -> Result<()> {
        let wire = Wire::to(talker()?)?;
        wire.cut_answers(1, 300_000);
        assert!((1..=300_000).contains(&ask(wire.address())?));
        assert_eq!(wire.cut(), 1);
        assert_eq!(ask(wire.address())?, 1_000_000);
        Ok(())
    }
}
