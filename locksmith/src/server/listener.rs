//! A listener that no crowd, no single host and no sluggard can exhaust.
//!
//! Promises
//! - At most [`Limits::connections`] are open; those beyond wait in the kernel's queue.
//! - One address (of IPv6: one /64 network, which is what one host has) holds at most [`Limits::per_address`] of them;
//!   one more is closed at once, and the log names the address.
//! - The head of a request is there within [`Limits::head`] of the moment it was waited for, however its bytes drip, and
//!   within [`HEAD_BYTES`]; else the connection is closed. That holds for the silence between two requests too.
//! - No connection is open for longer than [`Limits::life`] and, where an answer is under way then,
//!   [`Limits::last_words`]; so a client that drips its body or does not read its answer leaves, too.
//!
//! Never: cuts an answer short that is on time. Once told to stop, it takes no new connection and waits for what is under
//! way; how long, its caller decides.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Longest head of a request, in bytes: a token and a dozen headers take less than one KiB.
const HEAD_BYTES: usize = 16 * 1024;

/// How long no connection is taken after the system refused one (it has no descriptor or memory left).
const OUT_OF_BREATH: Duration = Duration::from_secs(1);

/// How much a listener bears.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once.
    connections: usize,
    /// Connections of one address at once.
    per_address: usize,
    /// The same for loopback addresses.
    on_loopback: usize,
    /// Time for the head of a request to arrive.
    head: Duration,
    /// Time after which a connection takes no further request.
    life: Duration,
    /// Time for the answer that is under way then.
    last_words: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Below the 1,024 descriptors a process may open by default, with room for the store.
            connections: 900,
            // A question takes milliseconds, so even a thousand hosts behind one gateway have a few open at once.
            per_address: 64,
            // A proxy on this machine brings a whole fleet from one address; the rest is for those who come by themselves.
            on_loopback: 800,
            head: Duration::from_secs(10),
            life: Duration::from_secs(60),
            // More than the longest answer: a body, a look for its group and a decision, 10 s each.
            last_words: Duration::from_secs(35),
        }
    }
}

/// Answers connections until `stop` resolves, then until those that are open have had their answer.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let door = Door::new(listener, limits);
    let (going_on, stopping) = watch::channel(());
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = open.join_next() => {}
            (stream, guest) = door.accept() => {
                open.spawn(converse(stream, guest, router.clone(), limits, stopping.clone()));
            }
        }
    }
    drop(door);
    drop(going_on);
    while open.join_next().await.is_some() {}
}

/// Answers one connection to its end.
async fn converse(stream: TcpStream, guest: Guest, router: Router, limits: Limits, mut stopping: watch::Receiver<()>) {
    let peer = guest.address;
    // Answers are small and final: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => Ok(ended),
        () = parting(limits.life, &mut stopping) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.last_words, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "connection broke off"),
        Err(_) => tracing::debug!(%peer, "connection closed: it lasted too long"),
    }
}

/// Until a connection has had its time, or the server stops.
async fn parting(life: Duration, stopping: &mut watch::Receiver<()>) {
    // Nothing is ever sent: it ends when the sender is dropped.
    let _ = tokio::time::timeout(life, stopping.changed()).await;
}

/// Who is let in.
struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    guests: Arc<Guests>,
}

impl Door {
    fn new(listener: TcpListener, limits: Limits) -> Self {
        let guests = Guests { limits, open: Mutex::default() };
        Self { listener, room: Arc::new(Semaphore::new(limits.connections)), guests: Arc::new(guests) }
    }

    async fn accept(&self) -> (TcpStream, Guest) {
        loop {
            // The semaphore is never closed, so a permit always comes.
            let permit = Arc::clone(&self.room).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(guest) = Guest::admit(&self.guests, peer, permit) {
                        return (stream, guest);
                    }
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot take a connection");
                    tokio::time::sleep(OUT_OF_BREATH).await;
                }
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Who has connections open.
struct Guests {
    limits: Limits,
    open: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Default)]
struct Count {
    open: usize,
    /// Whether the log has said that it has too many.
    told: bool,
}

/// A connection that was let in, counted until it is dropped.
struct Guest {
    address: IpAddr,
    guests: Arc<Guests>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Guest {
    /// Counts a connection in, unless its address has as many as it may.
    fn admit(guests: &Arc<Guests>, peer: SocketAddr, permit: Option<OwnedSemaphorePermit>) -> Option<Self> {
        let address = one_host(peer.ip().to_canonical());
        let most = if address.is_loopback() { guests.limits.on_loopback } else { guests.limits.per_address };
        let mut open = guests.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if count.open < most {
            count.open = count.open.saturating_add(1);
            return Some(Self { address, guests: Arc::clone(guests), _permit: permit });
        }
        if !std::mem::replace(&mut count.told, true) {
            tracing::warn!(%peer, open = count.open, "refused: this address has as many connections open as one may");
        }
        None
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = self.guests.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = open.get_mut(&self.address) else { return };
        count.open = count.open.saturating_sub(1);
        if count.open == 0 {
            open.remove(&self.address);
        }
    }
}

/// What all addresses of one host have in common: of IPv6 a host has a /64 network to choose from.
fn one_host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as Client;

    use axum::body::Bytes;
    use axum::routing::{get, post};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    const SHORT: Limits = Limits {
        connections: 3,
        per_address: 1,
        on_loopback: 3,
        head: Duration::from_millis(300),
        life: Duration::from_millis(900),
        last_words: Duration::from_millis(300),
    };

    /// No limit of [`SHORT`] takes longer.
    const LONG: Duration = Duration::from_secs(5);

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Running {
        async fn with(limits: Limits) -> Self {
            let page = "x".repeat(64 << 20);
            let slow = || async {
                tokio::time::sleep(Duration::from_millis(1000)).await;
                "late"
            };
            let router = Router::new()
                .route("/", get(|| async { "here" }))
                .route("/slow", get(slow))
                .route("/large", get(move || std::future::ready(page.clone())))
                .route("/read", post(|body: Bytes| async move { body.len().to_string() }));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let serving = tokio::spawn(serve(listener, router, limits, async {
                let _ = stopped.await;
            }));
            Self { address, stop, serving }
        }

        fn connect(&self) -> Client {
            let client = Client::connect(self.address).unwrap();
            client.set_read_timeout(Some(LONG)).unwrap();
            client
        }

        /// What a client hears that sends all of `bytes` at once; nothing if it is refused.
        fn ask(&self, bytes: &[u8]) -> String {
            let mut client = self.connect();
            client.write_all(bytes).unwrap();
            let mut answer = String::new();
            let _ = client.read_to_string(&mut answer);
            answer
        }
    }

    /// Sends `head`, then a byte now and then, and answers how long it was borne.
    fn drip(mut client: Client, head: &[u8]) -> Duration {
        let started = Instant::now();
        client.write_all(head).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while started.elapsed() < LONG {
            match client.read(&mut [0; 1024]) {
                Ok(0) => break,
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                _ => {}
            }
            if client.write_all(b"x").is_err() {
                break;
            }
        }
        started.elapsed()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_that_drip_are_put_out_and_all_others_get_their_turn() {
        for (head, least) in [
            (&b"GET / HTTP/1.1\r\nx-drip: "[..], SHORT.head),
            (&b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n"[..], SHORT.life + SHORT.last_words),
        ] {
            let server = Running::with(SHORT).await;
            let dripping: Vec<_> = (0..SHORT.connections)
                .map(|_| {
                    let client = server.connect();
                    std::thread::spawn(move || drip(client, head))
                })
                .collect();
            // Every place is taken, so this one waits in the kernel's queue for one of them.
            let started = Instant::now();
            let answer = server.ask(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
            for borne in dripping.into_iter().map(|thread| thread.join().unwrap()) {
                assert!((least / 2..LONG).contains(&borne), "{borne:?}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_does_not_read_its_answer_is_put_out() {
        let server = Running::with(Limits { on_loopback: 1, ..SHORT }).await;
        let mut client = server.connect();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let started = Instant::now();
        while !server.ask(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < LONG, "its place is still taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(started.elapsed() >= SHORT.life, "it had its time");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_is_kept_between_requests_for_as_long_as_a_head_may_take() {
        let server = Running::with(Limits { life: LONG, ..SHORT }).await;
        let mut client = server.connect();
        let mut heard = [0; 4096];
        // As long as two heads may take, in rounds that are each shorter than one.
        for _ in 0..6 {
            client.write_all(ASK).unwrap();
            assert!(client.read(&mut heard).unwrap() > 0, "one that asks again in time is kept");
            std::thread::sleep(SHORT.head / 3);
        }
        client.write_all(ASK).unwrap();
        assert!(client.read(&mut heard).unwrap() > 0);
        let silent_since = Instant::now();
        while client.read(&mut heard).is_ok_and(|read| read > 0) {}
        let borne = silent_since.elapsed();
        assert!((SHORT.head / 2..LONG / 2).contains(&borne), "a silent client is put out after its time: {borne:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_head_without_end_is_refused() {
        let server = Running::with(SHORT).await;
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
        let answer = server.ask(head.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_address_has_its_share_and_gets_another_place_when_it_leaves_one() {
        let server = Running::with(Limits { on_loopback: 2, head: LONG, life: LONG, ..SHORT }).await;
        let held = [server.connect(), server.connect()];
        let started = Instant::now();
        assert_eq!(server.ask(ASK), "", "one too many is closed unanswered");
        assert!(started.elapsed() < LONG / 2, "and at once");
        drop(held);
        let again = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        while !server.ask(again).starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < LONG, "the places it left are not given back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[test]
    fn addresses_are_counted_by_host_whatever_they_are_written_as() {
        let guests = Arc::new(Guests { limits: SHORT, open: Mutex::default() });
        let admit = |address: &str| Guest::admit(&guests, SocketAddr::new(address.parse().unwrap(), 1), None);
        let first = admit("192.0.2.1").expect("the first is let in");
        assert!(admit("::ffff:192.0.2.1").is_none(), "the same host over IPv6");
        let network = admit("2001:db8:0:1::1").expect("another host is let in");
        assert!(admit("2001:db8:0:1:ffff::2").is_none(), "another address of the same host");
        let _next = admit("2001:db8:0:2::1").expect("another network");
        let local: Vec<_> = ["127.0.0.1", "127.0.0.1", "127.0.0.1"].map(admit).into_iter().flatten().collect();
        assert_eq!(local.len(), SHORT.on_loopback, "a machine's own programs have a larger share");
        drop((first, network));
        assert!(admit("192.0.2.1").is_some());
        drop(local);
        assert_eq!(guests.open.lock().unwrap().len(), 1, "only who is there is remembered");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn told_to_stop_it_ends_the_answers_under_way_and_the_silent_at_once() {
        let server = Running::with(Limits { head: LONG, life: LONG, last_words: LONG, ..SHORT }).await;
        let silent = server.connect();
        let mut asking = server.connect();
        asking.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        server.stop.send(()).unwrap();
        server.serving.await.unwrap();
        assert!((Duration::from_millis(400)..LONG / 2).contains(&started.elapsed()), "{:?}", started.elapsed());
        let mut answer = String::new();
        asking.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("late"), "{answer}");
        assert!(Client::connect(server.address).is_err(), "nobody new is let in");
        drop(silent);
    }
}
