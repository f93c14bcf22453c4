//! A network between bygone and its source that can be slow, cut, or go quiet.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The two ends of one connection.
#[derive(Debug)]
struct Pair {
    ends: [TcpStream; 2],
    /// What comes from either end is swallowed, and the connection stays.
    quiet: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Shared {
    pairs: Mutex<Vec<Pair>>,
    delay: AtomicU64,
    stopped: AtomicBool,
}

/// A way to a TCP server on this machine, through a port of its own.
#[derive(Debug)]
pub(crate) struct Link {
    port: u16,
    shared: Arc<Shared>,
}

impl Link {
    pub(crate) fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if all.stopped.load(Ordering::SeqCst) {
                    break;
                }
                // A server that is down closes what reaches it.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) {
                    connect(client, server, &all);
                }
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Everything takes this much longer, each way.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.shared.delay.store(delay.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Ends every connection, in the middle of whatever it carries; returns how many there were.
    pub(crate) fn cut(&self) -> usize {
        let pairs = std::mem::take(&mut *self.shared.pairs.lock().unwrap());
        let open = pairs.iter().filter(|pair| pair.ends[0].shutdown(Shutdown::Both).is_ok());
        let count = open.count();
        for pair in pairs {
            let _ = pair.ends[1].shutdown(Shutdown::Both);
        }
        count
    }

    /// From now on nothing passes through the connections that there are, and neither end is told: as when a firewall
    /// forgets them. New ones are well.
    pub(crate) fn forget(&self) {
        for pair in self.shared.pairs.lock().unwrap().iter() {
            pair.quiet.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.cut();
    }
}

fn connect(client: TcpStream, server: TcpStream, all: &Arc<Shared>) {
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    let quiet = Arc::new(AtomicBool::new(false));
    let twin = |end: &TcpStream| end.try_clone().unwrap();
    for (mut from, mut to) in [(twin(&client), twin(&server)), (twin(&server), twin(&client))] {
        let (quiet, all) = (Arc::clone(&quiet), Arc::clone(all));
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let delay = all.delay.load(Ordering::SeqCst);
                if delay > 0 {
                    std::thread::sleep(Duration::from_micros(delay));
                }
                if !quiet.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            // Who has forgotten a connection passes its end on to nobody.
            if !quiet.load(Ordering::SeqCst) {
                let _ = to.shutdown(Shutdown::Both);
            }
        });
    }
    all.pairs.lock().unwrap().push(Pair { ends: [client, server], quiet });
}
