//! A loader that does not do its part: the update ends before anything is fetched.

use manifests::release::Envelope;

use super::*;
use crate::boot::grub::Block;
use crate::config::Source;
use crate::engine::state::Source as Payload;
use crate::engine::tests::host::record;
use crate::records::Records;

/// A host of a disk and a GRUB environment block, whose update to 1.1.0 is about to be fetched.
struct GrubHost {
    rig: slot::rig::Rig,
    daemon: Daemon,
    plan: Plan,
    _handle: ControlHandle,
}

impl GrubHost {
    fn new(variables: &[(&str, &str)], payload: String) -> Self {
        let (rig, key) = (slot::rig::Rig::with_slots_of(16), SecretKey::from_seed(&[1; 32]));
        let folder = rig.folder.path();
        let mut block = Block::empty();
        variables.iter().for_each(|(name, value)| block.set(name, value));
        std::fs::write(folder.join("grubenv"), block.to_bytes().unwrap()).unwrap();
        let text = "state_dir = \"@/state\"\nsysroot = \"@\"\nserver.app_id = \"x\"\ndisk.device = \"@/disk.img\"\n\
                    slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nboot.control = \"grub\"\n\
                    boot.grub.env = \"@/grubenv\"\n";
        let settings = config::parse(&[Source::new("test", text.replace('@', &folder.display().to_string()))]).unwrap();
        std::fs::create_dir_all(&settings.trust.keyring_dir).unwrap();
        std::fs::write(settings.trust.keyring_dir.join("one.pub"), key.public().to_text("one")).unwrap();
        let world = World::new(Arc::new(settings.clone()), Records::open(&settings.state_dir).unwrap());

        let mut envelope = Envelope::unsigned(&record(2)).unwrap();
        envelope.sign(&key).unwrap();
        world.records().keep_offer(envelope.digest(), &envelope.to_bytes()).unwrap();
        let source = Payload { urls: vec![payload], size: 4096, delta: None };
        let plan = Plan { digest: envelope.digest(), source, ..plan() };
        let state = State::Fetching { plan: plan.clone(), rewrites: 0 };
        let (journal, _) = Journal::open(&settings.state_dir, now().wall).unwrap();
        let engine = Engine::new(Model { state, ..Model::default() }, world.look(None), policy());
        let (daemon, handle) = Daemon::new(engine, journal, world, Fetcher::new(Options::default()).unwrap());
        Self { rig, daemon, plan, _handle: handle }
    }

    fn block(&self) -> Vec<u8> {
        std::fs::read(self.rig.folder.path().join("grubenv")).unwrap()
    }
}

/// Answers nothing; whether anybody came.
async fn mirror() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/1.1.0.payload", listener.local_addr().unwrap());
    let asked = Arc::<AtomicBool>::default();
    let told = asked.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            told.store(true, std::sync::atomic::Ordering::Relaxed);
            held.push(stream);
        }
    });
    (url, asked)
}

#[tokio::test]
async fn nothing_is_fetched_or_written_before_the_boot_control_has_passed_its_test() {
    let slot_a_is_good = [("ota_primary", "a"), ("ota_a", "good")];
    for loader in [None, Some(("ota_loader", "1"))] {
        let (url, asked) = mirror().await;
        let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
        let variables = Vec::from_iter(slot_a_is_good.into_iter().chain(loader));
        let mut host = GrubHost::new(&variables, url);
        let before = (host.rig.bytes(), host.block());
        let install = Effect::Install { plan: host.plan.clone(), scan: Scan::All };
        host.daemon.start(install);
        let ends = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                tokio::select! {
                    Some(event) = host.daemon.events.recv() => host.daemon.step(event),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
                if asked() || matches!(host.daemon.engine.model().state, State::Failed { .. }) {
                    break;
                }
            }
        });
        ends.await.expect("it neither ends nor is fetched");
        // A loader that does its part is what it takes: the rest of this host is in order.
        assert_eq!(asked(), loader.is_some());
        if loader.is_none() {
            let error = host.daemon.engine.model().last_error.clone().unwrap();
            assert_eq!(error.code, Cause::BootControl);
            assert!(error.message.contains("has no variable ota_loader"), "{}", error.message);
            assert!(before == (host.rig.bytes(), host.block()));
        }
    }
}
