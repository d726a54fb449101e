//! A lock service for machines that are recorded, and for disks of theirs that are started again, several at once under one name: it
//! grants everything to everybody, as a server of ours does, and remembers what it has answered, and when. What a real one decides is
//! `locksmith`'s to show, and the tests of the real programs'.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

/// A host that says nothing more keeps nobody else waiting for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No request of a host is longer.
const MAX_BODY: u64 = 64 << 10;

/// The service; gone with this.
#[derive(Debug)]
pub struct LockService {
    addr: SocketAddr,
    answered: Arc<Mutex<Vec<Answered>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A yes of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When it was about to be sent.
    pub at: Timestamp,
    /// For which attempt.
    pub attempt: String,
    /// To what.
    pub ask: Ask,
}

/// What a host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// For the lock.
    Lock,
    /// To be known as one that is about to reboot.
    Reboot,
    /// To be rid of the lock.
    Release,
}

impl LockService {
    /// Listens here; port 0 is any that is free.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start(addr: impl Into<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr.into())?;
        let addr = listener.local_addr()?;
        let answered = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (notes, ended) = (Arc::clone(&answered), Arc::clone(&is_over));
        let serve = move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // What is no request is the host's to repeat.
                let _unanswered = stream.and_then(|stream| answer(stream, &notes));
            }
        };
        Ok(Self { addr, answered, is_over, thread: Some(thread::spawn(serve)) })
    }

    /// The same, on this machine alone.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start_on(port: u16) -> io::Result<Self> {
        Self::start((Ipv4Addr::LOCALHOST, port))
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All that it has said yes to.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for LockService {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It waits for somebody to come.
        let _woken = TcpStream::connect_timeout(&self.addr, PATIENCE);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(mut stream: TcpStream, notes: &Mutex<Vec<Answered>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(MAX_BODY));
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body)?;
    let (attempt, phase) = (&body["ota"]["attempt"], &body["ota"]["phase"]);
    let ask = match first.split(' ').nth(1).and_then(|path| path.rsplit('/').next()) {
        Some("steady-state") => Ask::Release,
        Some("pre-reboot") if phase == "rebooting" => Ask::Reboot,
        _ => Ask::Lock,
    };
    let yes = if ask == Ask::Release {
        json!({ "released": true })
    } else {
        json!({ "attempt": attempt, "fence": 1, "phase": phase, "lease_s": 600 })
    };
    let attempt = attempt.as_str().unwrap_or_default().to_owned();
    // Before it is sent: whatever the host does because of it comes later.
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(Answered { at: Timestamp::now(), attempt, ask });
    let yes = yes.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{yes}",
        yes.len()
    )
}
