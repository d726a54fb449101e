//! The server: a listener, a thread for each connection, and the way to stop them all.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle, Scope};
use std::time::{Duration, Instant};

use crate::files::Measuring;
use crate::reach::Reach;
use crate::record::{Recorded, Recorder};
use crate::script::Script;
use crate::send::set_reset;
use crate::stage::Stage;
use crate::{Error, connection};

/// Most connections at a time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 1024;

/// A running server. It stops when it is dropped.
///
/// It needs no async runtime and disturbs none: it has threads of its own, so it can be started from any test.
pub struct Mock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What all connections work with.
pub(crate) struct Shared {
    pub(crate) addr: SocketAddr,
    /// What relative paths of a script put at run time start from.
    pub(crate) folder: PathBuf,
    /// Files that such scripts may name.
    pub(crate) reach: Reach,
    pub(crate) stage: Stage,
    pub(crate) measuring: Measuring,
    pub(crate) recorder: Recorder,
    pub(crate) stop: Stop,
    connections: Connections,
    door: Mutex<Door>,
    door_moved: Condvar,
}

/// The listener, as others see it.
struct Door {
    is_open: bool,
    /// When the outage ends that was asked for or is under way.
    outage_until: Option<Instant>,
}

impl Mock {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(script: Script) -> Result<Self, Error> {
        Self::start_on(script, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts on that address; port 0 takes a free one.
    pub fn start_on(script: Script, addr: SocketAddr) -> Result<Self, Error> {
        Self::start_in(script, addr, PathBuf::from("."))
    }

    /// The same, with the folder that relative paths of scripts put at run time start from.
    pub fn start_in(script: Script, addr: SocketAddr, folder: PathBuf) -> Result<Self, Error> {
        script.check()?;
        let listener = TcpListener::bind(addr).map_err(|source| Error::Listen { addr, source })?;
        let addr = listener.local_addr().map_err(|source| Error::Listen { addr, source })?;
        let shared = Arc::new(Shared {
            addr,
            folder,
            reach: Reach::new(&script, addr),
            stage: Stage::new(script),
            measuring: Measuring::default(),
            recorder: Recorder::default(),
            stop: Stop::default(),
            connections: Connections::default(),
            door: Mutex::new(Door { is_open: true, outage_until: None }),
            door_moved: Condvar::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("server-mock".to_owned()).spawn(move || shared.run(listener)).map_err(Error::Thread)?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// `http://ADDRESS`, without a final `/`.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.addr)
    }

    /// Where Omaha requests go.
    pub fn update_url(&self) -> String {
        format!("{}/v1/update/", self.url())
    }

    /// All requests since the start or the last clearing, oldest first, as far as they are kept.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.recorder.all()
    }

    /// Forgets the requests.
    pub fn clear_recorded(&self) {
        self.shared.recorder.clear();
    }

    /// Starts over with another script; connections stay, and answers under way go on.
    pub fn set_script(&self, script: Script) -> Result<(), Error> {
        script.check()?;
        self.shared.stage.set(script);
        Ok(())
    }

    /// Cuts all connections off and takes none for so long; they are cut off when this returns.
    pub fn go_away(&self, length: Duration) {
        self.shared.begin_outage(length);
    }

    /// Waits until it is stopped by another thread, which a program never does.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed by then.
            let _ = thread.join();
        }
    }

    /// Closes all connections and the listener, and waits until they are closed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.shared.stop.set();
        self.shared.wake_listener();
        self.shared.connections.end_all(Ending::Orderly);
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed by then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Takes connections until the stop.
    fn run(&self, listener: TcpListener) {
        thread::scope(|scope| {
            let mut listener = Some(listener);
            while let Some(open) = listener.take() {
                self.accept_until_told(&open, scope);
                drop(open);
                self.connections.end_all(Ending::Abrupt);
                self.move_door(false);
                listener = self.listen_again();
                self.move_door(listener.is_some());
            }
            self.connections.end_all(Ending::Orderly);
        });
    }

    /// Takes connections until the server stops or an outage begins.
    fn accept_until_told<'scope, 'env>(&'env self, listener: &TcpListener, scope: &'scope Scope<'scope, 'env>) {
        loop {
            let accepted = listener.accept();
            if self.stop.is_set() || self.lock_door().outage_until.is_some() {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.take(stream, scope),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    // Out of file descriptors, most likely: trying again at once would spin.
                    self.stop.wait(Duration::from_millis(50));
                }
            }
        }
    }

    fn take<'scope, 'env>(&'env self, stream: TcpStream, scope: &'scope Scope<'scope, 'env>) {
        let stream = Arc::new(stream);
        let Some(number) = self.connections.add(&stream) else {
            tracing::warn!("expected at most {MAX_CONNECTIONS} connections, closed one more");
            return;
        };
        let spawned = thread::Builder::new().name("connection".to_owned()).spawn_scoped(scope, move || {
            connection::serve(&stream, self);
            self.connections.remove(number);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot serve a connection");
            self.connections.remove(number);
        }
    }

    /// Waits out an outage and listens on the same address again; `None` if the server stops.
    fn listen_again(&self) -> Option<TcpListener> {
        while let Some(left) = self.outage_left() {
            if self.stop.wait(left) {
                return None;
            }
        }
        while !self.stop.is_set() {
            match TcpListener::bind(self.addr) {
                Ok(listener) => return Some(listener),
                Err(error) => {
                    tracing::error!(%error, addr = %self.addr, "cannot listen again, will try again");
                    self.stop.wait(Duration::from_millis(100));
                }
            }
        }
        None
    }

    /// Lets the server be gone for so long; it is gone when this returns.
    pub(crate) fn begin_outage(&self, length: Duration) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut door = self.lock_door();
        door.outage_until = Some(Instant::now() + length);
        if door.is_open {
            drop(door);
            self.wake_listener();
            door = self.lock_door();
        }
        // Should the listener's thread not come to it in time, the outage merely begins a little late.
        let _ = self.door_moved.wait_timeout_while(door, PATIENCE, |door| door.is_open);
    }

    /// What is left of an outage; once nothing is, it is over.
    fn outage_left(&self) -> Option<Duration> {
        let mut door = self.lock_door();
        door.outage_until = door.outage_until.filter(|&end| end > Instant::now());
        door.outage_until.map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn move_door(&self, is_open: bool) {
        self.lock_door().is_open = is_open;
        self.door_moved.notify_all();
    }

    fn lock_door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the listener's thread look around: it sleeps until a connection comes.
    fn wake_listener(&self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        // If nobody listens, nobody sleeps.
        let _ = TcpStream::connect_timeout(&addr, PATIENCE);
    }
}

/// How connections are ended that still go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// What was written still arrives.
    Orderly,
    /// What was written and has not arrived is lost.
    Abrupt,
}

/// The connections there are. They belong to their threads, so that the last to let go closes them.
#[derive(Default)]
struct Connections {
    open: Mutex<(u64, HashMap<u64, Weak<TcpStream>>)>,
}

impl Connections {
    /// A number for the connection, or `None` if there are too many.
    fn add(&self, stream: &Arc<TcpStream>) -> Option<u64> {
        let (last, open) = &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_CONNECTIONS {
            return None;
        }
        *last += 1;
        open.insert(*last, Arc::downgrade(stream));
        Some(*last)
    }

    fn remove(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&number);
    }

    /// Ends what every connection's thread waits for, so that it lets go.
    fn end_all(&self, how: Ending) {
        let open: Vec<_> = {
            let guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            guard.1.values().filter_map(Weak::upgrade).collect()
        };
        for stream in open {
            // A connection that is gone already needs neither.
            if how == Ending::Abrupt {
                let _ = set_reset(&stream);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Tells every thread to end, and lets them sleep until then.
#[derive(Default)]
pub(crate) struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps so long, or until the stop; true if it is the stop.
    pub(crate) fn wait(&self, length: Duration) -> bool {
        let guard = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(guard, length, |is_set| !*is_set);
        *waited.map_or_else(|error| error.into_inner().0, |(guard, _)| guard)
    }
}
