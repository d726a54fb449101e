//! A daemon without an engine: the real control server, documents as given, commands answered from a script.
//!
//! Fault model: it says what the script says, whatever was asked, and records what it got. A command for which the script has
//! no line is rejected, recorded as a fault, and fails the test when the fake is dropped.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use update_engine::control::{ControlHandle, Limits, Request, Server};
use update_engine::engine::command::{Accepted, Command, Rejected, Rejection};
use update_engine::status::json::{EventLine, HistoryEntry, Status, WholeKernelLog, WhyEntry};

/// What the fake does after it has answered a command.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    /// Shows another status.
    Status(Box<Status>),
    /// Sends an event.
    Event(Box<EventLine>),
    /// Lets time pass.
    Wait(Duration),
    /// Goes away.
    Stop,
}

/// One line of the script.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) answer: Result<Accepted, Rejected>,
    pub(crate) then: Vec<Then>,
}

/// The documents it shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    pub(crate) status: Status,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) why: Vec<WhyEntry>,
    pub(crate) kernel_log: Option<WholeKernelLog>,
    pub(crate) config: String,
}

pub(crate) struct Fake {
    folder: TempDir,
    socket: PathBuf,
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) events: broadcast::Sender<EventLine>,
    commands: Arc<Mutex<Vec<(Command, u32)>>>,
    faults: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How a fake is set up.
pub(crate) struct Setup {
    pub(crate) documents: Documents,
    pub(crate) script: Vec<Line>,
    pub(crate) limits: Limits,
    pub(crate) event_capacity: usize,
    /// Commands are taken and never answered.
    pub(crate) silent: bool,
    /// Nobody takes commands from the queue, which has one place.
    pub(crate) deaf: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            documents: Documents::default(),
            script: Vec::new(),
            limits: Limits::default(),
            event_capacity: 64,
            silent: false,
            deaf: false,
        }
    }
}

impl Setup {
    pub(crate) fn start(self) -> Fake {
        Fake::start(self)
    }
}

impl Fake {
    /// A daemon that shows this status.
    pub(crate) fn showing(status: Status) -> Self {
        Setup { documents: Documents { status, ..Documents::default() }, ..Setup::default() }.start()
    }

    fn start(setup: Setup) -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("control.sock");
        let (status, status_receiver) = watch::channel(Arc::new(setup.documents.status));
        let (events, _) = broadcast::channel(setup.event_capacity);
        let (commands_sender, commands_receiver) = mpsc::channel(if setup.deaf { 1 } else { 16 });
        let handle = ControlHandle {
            status: status_receiver,
            history: watch::channel(Arc::new(setup.documents.history)).1,
            why: watch::channel(Arc::new(setup.documents.why)).1,
            kernel_log: watch::channel(Arc::new(setup.documents.kernel_log)).1,
            config_text: setup.documents.config.into(),
            events: events.clone(),
            commands: commands_sender,
            // Nobody is there who could show anything newer.
            refresh: mpsc::channel(1).0,
        };
        let (commands, faults): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound_sender, bound) = std::sync::mpsc::channel();
        let player = Player {
            script: setup.script.into(),
            status: status.clone(),
            events: events.clone(),
            commands: Arc::clone(&commands),
            faults: Arc::clone(&faults),
            silent: setup.silent,
        };
        let (path, limits, deaf) = (socket.clone(), setup.limits, setup.deaf);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let server = Server::bind(&path).unwrap();
                bound_sender.send(()).unwrap();
                let (stop_by_script, stopped_by_script) = oneshot::channel::<()>();
                let stop = async move {
                    tokio::select! { _ = stopped => {}, Ok(()) = stopped_by_script => {} }
                };
                let serving = server.serve(handle, limits, stop);
                if deaf {
                    let _kept = commands_receiver;
                    serving.await;
                } else {
                    tokio::join!(serving, player.play(commands_receiver, stop_by_script));
                }
            });
        });
        bound.recv().unwrap();
        Self { folder, socket, status, events, commands, faults, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What was asked, by whom.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.commands.lock().unwrap().iter().map(|(command, _)| command.clone()).collect()
    }

    /// A connection that nothing has been said on yet.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends these bytes, and reads until the server closes or an error ends it.
    pub(crate) fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer and close before it has read everything.
        let _closed_early = stream.write_all(bytes);
        read_all(&mut stream)
    }

    /// `METHOD PATH` with a body, on a connection of its own: status code and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        split(&self.talk(request.as_bytes()))
    }

    /// Goes away now, and is gone when this returns.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _already_gone = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub(crate) fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Status code and body of an answer.
pub(crate) fn split(answer: &str) -> (u16, String) {
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (code, body)
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
        let faults = self.faults.lock().unwrap();
        if !std::thread::panicking() {
            assert!(faults.is_empty(), "the fake's script: {faults:?}");
        }
    }
}

struct Player {
    script: VecDeque<Line>,
    status: watch::Sender<Arc<Status>>,
    events: broadcast::Sender<EventLine>,
    commands: Arc<Mutex<Vec<(Command, u32)>>>,
    faults: Arc<Mutex<Vec<String>>>,
    silent: bool,
}

impl Player {
    async fn play(mut self, mut receiver: mpsc::Receiver<Request>, stop: oneshot::Sender<()>) {
        let mut stop = Some(stop);
        let mut unanswered = Vec::new();
        while let Some(request) = receiver.recv().await {
            self.commands.lock().unwrap().push((request.command.clone(), request.uid));
            if self.silent {
                unanswered.push(request.reply);
                continue;
            }
            let Some(line) = self.script.pop_front() else {
                self.faults.lock().unwrap().push(format!("no line for {:?}", request.command));
                let rejected = Rejected::new(Rejection::Unknown, "the fake has no line for this");
                let _gone = request.reply.send(Err(rejected));
                continue;
            };
            let _gone = request.reply.send(line.answer);
            for then in line.then {
                match then {
                    Then::Status(status) => drop(self.status.send_replace(Arc::new(*status))),
                    Then::Event(event) => drop(self.events.send(*event)),
                    Then::Wait(time) => tokio::time::sleep(time).await,
                    Then::Stop => drop(stop.take().map(|stop| stop.send(()))),
                }
            }
        }
    }
}

/// The daemon took it up.
pub(crate) fn accepted(attempt: Option<&str>, message: &str) -> Result<Accepted, Rejected> {
    Ok(Accepted { attempt: attempt.map(str::to_owned), message: message.into() })
}

/// The daemon said no.
pub(crate) fn rejected(code: Rejection, message: &str) -> Result<Accepted, Rejected> {
    Err(Rejected::new(code, message))
}
