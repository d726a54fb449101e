//! The listening side: the socket file, who gets in, and for how long.

use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::ControlHandle;
use super::admission::{Admission, Caps};
use super::guard::{Guarded, Timing};
use super::routes;
use crate::engine::command::Rejection;

/// Everyone may connect; what they may do is decided by who they are.
const SOCKET_MODE: u32 = 0o666;
/// Time open requests have to end after the daemon was asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pause after `accept` failed: the reason is a lack of file descriptors, which goes by.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Most callers that are told at once why they may not come in.
const TURNED_AWAY_AT_ONCE: usize = 16;
/// Time such a caller has to say what it wanted.
const TURNED_AWAY_WAIT: Duration = Duration::from_millis(500);

/// What callers are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one user that is neither root nor the daemon's own.
    pub connections_per_uid: usize,
    /// Connections of the total that ordinary users never get.
    pub reserved: usize,
    /// Longest body, and longest head, of a request.
    pub request_part_bytes: usize,
    /// Longest time without a byte written.
    pub stalled: Duration,
    /// Time the engine has to take a command up or reject it.
    pub reply: Duration,
    /// Time between two comments on a quiet event stream.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_per_uid: 8,
            reserved: 8,
            request_part_bytes: 64 * 1024,
            stalled: Duration::from_secs(60),
            reply: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A daemon answers there.
    #[error("the control socket {} is in use: another update-engined answers on it", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands there.
    #[error("cannot make the control socket {}: expected nothing or a socket there, got another kind of file", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} the control socket {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

/// The control socket, open. It is taken away when dropped, if it is still this one.
#[derive(Debug)]
pub struct Server {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: (u64, u64),
}

/// Who connected, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: u32,
}

impl Server {
    /// Opens the socket; its folder is made if need be. A socket that a dead daemon left behind is replaced, one that a living
    /// daemon answers on is not. Needs a runtime.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |action| move |source| ControlError::Io { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        }
        refuse_living(path)?;
        // Made beside and renamed, so that nobody ever meets it with other permissions or not yet listening.
        let beside = beside(path);
        remove_if_there(&beside).map_err(failed("make room for"))?;
        let listener = UnixListener::bind(&beside).map_err(failed("make"))?;
        let metadata = fs::set_permissions(&beside, Permissions::from_mode(SOCKET_MODE))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| fs::symlink_metadata(path))
            .map_err(failed("put in place"))?;
        Ok(Self { listener: Some(listener), path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }

    /// Answers until `stop` is done. Open requests have a moment to end then.
    pub async fn serve(mut self, handle: ControlHandle, limits: Limits, stop: impl Future<Output = ()> + Send + 'static) {
        let Some(listener) = self.listener.take() else { return };
        let own_uid = geteuid().as_raw();
        let caps = Caps { total: limits.connections, per_uid: limits.connections_per_uid, reserved: limits.reserved };
        let timing = Timing { stalled: limits.stalled, request_bytes: limits.request_part_bytes.saturating_mul(8) };
        let door = Door {
            listener,
            admission: Admission::new(caps, own_uid),
            timing,
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)),
        };
        let (stopping, stopped) = watch::channel(false);
        let routes = routes::router(handle, limits, own_uid, stopped.clone());
        let service = routes.into_make_service_with_connect_info::<Peer>();
        let serving = axum::serve(door, service).with_graceful_shutdown(async move {
            stop.await;
            stopping.send_replace(true);
        });
        tokio::select! {
            result = async { serving.await } => if let Err(error) = result { warn!(%error, "the control socket closed") },
            () = grace_over(stopped) => debug!("requests to the control socket did not end in time"),
        }
    }
}

async fn grace_over(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which happens only after it said so.
    drop(stopped.wait_for(|stopped| *stopped).await);
    tokio::time::sleep(STOP_GRACE).await;
}

impl Drop for Server {
    fn drop(&mut self) {
        let still_this_one =
            fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if still_this_one && let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the control socket stays behind");
        }
    }
}

fn refuse_living(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { action: "look at", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ControlError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ControlError::InUse { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A short name in the same folder: the socket's own name may be as long as an address allows.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(".new")
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets in who may come in.
struct Door {
    listener: UnixListener,
    admission: Admission,
    timing: Timing,
    /// Places for those who are being told why not.
    turned_away: Arc<Semaphore>,
}

impl Door {
    fn turn_away(&self, stream: UnixStream, words: String) {
        debug!(words, "turned a connection to the control socket away");
        // When many are turned away at once, the rest learn it by the closed connection.
        if let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned() {
            tokio::spawn(async move {
                turn_away(stream, words).await;
                drop(place);
            });
        }
    }
}

impl Listener for Door {
    type Io = Guarded;
    type Addr = Peer;

    async fn accept(&mut self) -> (Guarded, Peer) {
        loop {
            match self.listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) => match self.admission.admit(uid) {
                    Ok(place) => return (Guarded::new(stream, place, self.timing), Peer { uid }),
                    Err(words) => self.turn_away(stream, words),
                },
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: geteuid().as_raw() })
    }
}

/// Says why. The request is waited for, briefly, and read: an answer that comes before its question, or a connection that is
/// closed under it, would be an error without words for whoever asks.
async fn turn_away(mut stream: UnixStream, words: String) {
    let body = routes::words(Rejection::TooManyConnections, &words).to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut ignored = [0; 4096];
    let exchange = async {
        let _silent = timeout(TURNED_AWAY_WAIT, stream.read(&mut ignored)).await;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = timeout(2 * TURNED_AWAY_WAIT, exchange).await {
        debug!(%error, "could not say why a connection was turned away");
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}
