//! The environment block on its file system: lock, read, decide, write in place, copy.

use std::io;
use std::path::PathBuf;

use nix::sys::statfs::{FsType, fstatfs};

use super::block::{BLOCK_BYTES, Block, BlockError, MAX_BYTES, SECTOR_BYTES};
use super::variables::Spelling;
use crate::boot::held::{self, Held};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite};
use crate::boot::{BootError, Standing, Weakness};
use crate::slot::SlotName;
use crate::slot::buffer::AlignedBuf;
use crate::slot::medium::{Access, RawFile};

/// File systems that put what is written in place somewhere else, so that GRUB, which goes by the place, does not find it, or writes
/// over something else. GRUB refuses to write there, too.
const NOT_IN_PLACE: [(FsType, &str); 4] = [
    (FsType(0x9123_683E), "btrfs"),
    (FsType(0xF2F5_2010), "f2fs"),
    (FsType(0x2FC1_2FC1), "zfs"),
    (FsType(0x794C_7630), "overlayfs"),
];

/// The environment block and its copy.
#[derive(Debug)]
pub(crate) struct GrubEnv {
    env: PathBuf,
    copy: PathBuf,
    spelling: Spelling,
    slots: [SlotName; 2],
}

/// A block as it was found.
enum Found {
    Whole { block: Block, length: usize },
    Damaged(BlockError),
}

impl GrubEnv {
    /// The block at `env`, its copy at `copy`. Reads nothing yet.
    pub(crate) const fn new(env: PathBuf, copy: PathBuf, spelling: Spelling, slots: [SlotName; 2]) -> Self {
        Self { env, copy, spelling, slots }
    }

    fn load_from(&self, env: &RawFile) -> Result<(Loaded, Option<Block>), BootError> {
        match find(env)? {
            Found::Whole { block, length } => {
                let loaded = self.spelling.read(&block, &self.slots)?;
                let odd = (length != BLOCK_BYTES).then(|| {
                    Weakness::until_next_change(format!(
                        "{} has {length} bytes, expected {BLOCK_BYTES}: somebody cut it off, or wrote it in another way",
                        self.env.display()
                    ))
                });
                Ok((Loaded { weakness: odd.or(loaded.weakness.clone()), ..loaded }, Some(block)))
            }
            Found::Damaged(error) => {
                let copy = self.copy_pair().ok_or_else(|| self.damaged(&error))?;
                let does = self.spelling.without_the_block(&self.copy, &copy);
                let weakness = Weakness::until_next_change(format!("{} is damaged ({error}): {does}", self.env.display()));
                Ok((Loaded { weakness: Some(weakness), ..copy.into() }, None))
            }
        }
    }

    /// What the copy says, if it says anything.
    fn copy_pair(&self) -> Option<Pair> {
        let file = RawFile::open(&self.copy, Access::Read).ok()?;
        match find(&file) {
            Ok(Found::Whole { block, .. }) => self.spelling.read(&block, &self.slots).ok().map(|loaded| loaded.pair),
            Ok(Found::Damaged(_)) | Err(_) => None,
        }
    }

    fn damaged(&self, error: &BlockError) -> BootError {
        BootError::Malformed {
            path: self.env.clone(),
            why: format!(
                "{error}; its copy {} does not help. A new block has to name the slot that runs, or the loader starts something else, which \
                 may be half written: `grub-editenv {env} create && grub-editenv {env} set {variables}",
                self.copy.display(),
                env = self.env.display(),
                variables = self.spelling.of_a_new_block()
            ),
        }
    }

    /// What is written, and whether it can be in one piece.
    fn spelled(&self, pair: &Pair, onto: Option<Block>) -> Result<[u8; BLOCK_BYTES], BootError> {
        let mut block = onto.unwrap_or_else(Block::empty);
        self.spelling.write(&mut block, pair);
        block.to_bytes().map_err(|error| BootError::Malformed { path: self.env.clone(), why: error.to_string() })
    }

    /// The copy names a slot to start when the block is lost: never one on trial, never one that is not good any more.
    fn bring_copy_up_to_date(&self, pair: &Pair) -> Result<(), BootError> {
        let settled = pair.clone().settled();
        if self.copy_pair().as_ref() == Some(&settled) {
            return Ok(());
        }
        let bytes = self.spelled(&settled, None)?;
        match RawFile::open(&self.copy, Access::Write) {
            Ok(file) if file.size_bytes().ok() == u64::try_from(BLOCK_BYTES).ok() => write_in_place(&file, &bytes),
            // Not there yet, or of a wrong size, which no loader reads.
            _ => crate::durable::replace(&self.copy, &bytes),
        }
        .map_err(|source| held::interrupted(&self.copy, source))
    }

    /// GRUB reads a block of any length, and its tools make none but of this one. On vfat a file must become neither shorter nor longer in its
    /// place, or its entry leads past its clusters after a power cut. A link to the block stays: GRUB may know the block by its own name.
    fn replace(&self, old: Held, before: &Pair, bytes: &[u8; BLOCK_BYTES]) -> Result<(), BootError> {
        // A power cut may leave no block while it is replaced: then the loader reads the copy.
        self.bring_copy_up_to_date(before)?;
        let interrupted = |source| held::interrupted(&self.env, source);
        let block = self.env.canonicalize().map_err(interrupted)?;
        crate::durable::replace(&block, bytes).map_err(interrupted)?;
        // The new file has a lock of its own, and somebody may have been there first.
        let file = self.open(Access::Write)?;
        crate::durable::free(old, &block).map_err(interrupted)?;
        self.bring_copy_up_to_date(&self.load_from(&file)?.0.pair)
    }

    fn open(&self, access: Access) -> Result<Held, BootError> {
        let file = held::open(&self.env, access)?;
        let kind = fstatfs(file.file()).map_err(|error| held::io_error("look up the file system of", &self.env, error.into()))?;
        match NOT_IN_PLACE.iter().find(|(known, _)| kind.filesystem_type() == *known) {
            None => Ok(file),
            Some((_, name)) => Err(BootError::Unsuitable(format!(
                "{} lies on {name}, which does not write in place: expected a file system that GRUB writes to, such as FAT or ext4",
                self.env.display()
            ))),
        }
    }
}

impl PairStore for GrubEnv {
    fn kind(&self) -> &'static str {
        "grub"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        let file = self.open(Access::Read)?;
        Ok(self.load_from(&file)?.0)
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        let file = self.open(Access::Write)?;
        let (loaded, block) = self.load_from(&file)?;
        let pair = decide(&loaded)?;
        let had_block = block.is_some();
        let bytes = self.spelled(&pair, block)?;
        let before = read(&file)?;
        if had_block && before.len() == BLOCK_BYTES && before[SECTOR_BYTES..] != bytes[SECTOR_BYTES..] {
            let used = before.iter().rposition(|&byte| byte != b'#').map_or(0, |last| last + 1);
            return Err(BootError::Malformed { path: self.env.clone(), why: BlockError::TooLong { got: used }.to_string() });
        }
        if before.len() != BLOCK_BYTES {
            self.replace(file, &loaded.pair, &bytes)?;
            return Ok(pair);
        }
        if rewrite == Rewrite::Always || before != bytes {
            write_in_place(&file, &bytes).map_err(|source| held::interrupted(&self.env, source))?;
        }
        self.bring_copy_up_to_date(&pair)?;
        Ok(pair)
    }

    fn check_loader(&self) -> Result<(), BootError> {
        let file = self.open(Access::Read)?;
        let Found::Whole { block, .. } = find(&file)? else { return Ok(()) };
        let (canary, who) = match self.spelling {
            Spelling::Ota => ("ota_loader", "`dist/grub/ota.cfg`"),
            Spelling::Rauc { .. } => ("ORDER", "the configuration for RAUC"),
        };
        if block.get(canary).is_some() {
            return Ok(());
        }
        Err(BootError::Unsuitable(format!(
            "{} has no variable {canary}, which {who} of GRUB sets: does GRUB read another file, or can it not write this one? Where the file was \
             mended since the last boot, the next boot sets it",
            self.env.display()
        )))
    }
}

impl Pair {
    /// Without its trial.
    fn settled(mut self) -> Self {
        for (_, standing) in &mut self.slots {
            if standing.is_on_trial() {
                *standing = Standing::Blank;
            }
        }
        self
    }
}

fn find(file: &RawFile) -> Result<Found, BootError> {
    let bytes = read(file)?;
    Ok(match Block::parse(&bytes) {
        Ok(block) => Found::Whole { block, length: bytes.len() },
        Err(error) => Found::Damaged(error),
    })
}

/// All of the file, from the medium; of one that is much too long, as much as tells that.
fn read(file: &RawFile) -> Result<Vec<u8>, BootError> {
    let io = |source| held::io_error("read", file.path(), source);
    let length = file.size_bytes().map_err(io)?.min(2 * MAX_BYTES as u64);
    let length = usize::try_from(length).unwrap_or(BLOCK_BYTES);
    let mut buffer = AlignedBuf::zeroed(2 * MAX_BYTES);
    file.read_exact_at(&mut buffer.as_mut_slice()[..length], 0).map_err(io)?;
    Ok(buffer.as_slice()[..length].to_vec())
}

/// One write of a length that the file has already: no block of the file system is allocated, freed or moved.
fn write_in_place(file: &RawFile, bytes: &[u8; BLOCK_BYTES]) -> io::Result<()> {
    let mut buffer = AlignedBuf::zeroed(BLOCK_BYTES);
    buffer.as_mut_slice()[..BLOCK_BYTES].copy_from_slice(bytes);
    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        folder: tempfile::TempDir,
        env: GrubEnv,
    }

    impl Rig {
        fn new(bytes: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (env, copy) = (folder.path().join("grubenv"), folder.path().join("grubenv.ota"));
            std::fs::write(&env, bytes).unwrap();
            let slots = ["a", "b"].map(|name| name.parse().unwrap());
            Self { env: GrubEnv::new(env, copy, Spelling::Ota, slots), folder }
        }

        fn fresh() -> Self {
            Self::new(&Block::empty().to_bytes().unwrap())
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("grubenv")).unwrap()
        }

        fn change(&self, verb: impl Fn(Pair) -> Pair) -> Result<Pair, String> {
            self.env.edit(Rewrite::IfDifferent, &mut |loaded| Ok(verb(loaded.pair.clone()))).map_err(|error| error.to_string())
        }

        fn pair(&self) -> Pair {
            self.env.load().unwrap().pair
        }
    }

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    #[test]
    fn an_update_walks_through_the_block_and_its_copy() {
        let rig = Rig::fresh();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.disarm(&b, &a)).unwrap();
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!((rig.pair().next(), &rig.env.copy_pair().unwrap().primary), (&b, &a), "the copy never names a slot on trial");
        rig.change(|pair| pair.boot().1).unwrap();
        rig.change(|pair| pair.mark_good(&b)).unwrap();
        assert_eq!((rig.pair().next(), &rig.env.copy_pair().unwrap().primary), (&b, &b));
        rig.change(|pair| pair.disarm(&a, &b)).unwrap();
        assert!(!rig.env.copy_pair().unwrap().standing(&a).is_good(), "nor one that is about to be written");
    }

    #[test]
    fn a_block_that_is_damaged_is_read_from_its_copy_and_mended_by_the_next_change() {
        for damaged in [vec![], vec![0; BLOCK_BYTES], vec![b'#'; 3000], Rig::fresh().bytes()[..24].to_vec()] {
            let rig = Rig::fresh();
            let (a, b) = (name("a"), name("b"));
            rig.change(|pair| pair.arm(&b, &a).mark_good(&b)).unwrap();
            std::fs::write(rig.folder.path().join("grubenv"), damaged).unwrap();
            let loaded = rig.env.load().unwrap();
            assert!(loaded.weakness.unwrap().to_string().contains("is damaged (expected an environment block"));
            assert_eq!(loaded.pair.next(), &b);
            rig.change(|pair| pair.disarm(&a, &b)).unwrap();
            assert_eq!((rig.env.load().unwrap().weakness, rig.bytes().len()), (None, BLOCK_BYTES));
        }
    }

    /// RAUC's configuration reads neither a copy nor our variables.
    #[test]
    fn for_rauc_a_damaged_block_is_said_as_what_it_means_there() {
        let mut rig = Rig::fresh();
        rig.env.spelling = Spelling::Rauc { names: ["A".to_owned(), "B".to_owned()] };
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a).mark_good(&b)).unwrap();
        std::fs::write(rig.folder.path().join("grubenv"), vec![0; BLOCK_BYTES]).unwrap();
        let loaded = rig.env.load().unwrap();
        let words = loaded.weakness.unwrap().to_string();
        assert!(
            words.contains("knows no copy and starts the first entry of its menu") && !words.contains("starts slot"),
            "{words}"
        );
        assert_eq!(loaded.pair.next(), &b);
        std::fs::remove_file(rig.folder.path().join("grubenv.ota")).unwrap();
        let error = rig.env.load().unwrap_err().to_string();
        assert!(
            error
                .contains("set ORDER=\"A B\" A_OK=1 A_TRY=0 B_OK=0 B_TRY=0 ota_armed=1` where slot A runs; where slot B does, `")
                && error.ends_with("ORDER=\"B A\" B_OK=1 B_TRY=0 A_OK=0 A_TRY=0 ota_armed=1`")
                && !error.contains("ota_primary"),
            "{error}"
        );
        // What is said is what helps.
        let mut new = Block::empty();
        [("ORDER", "B A"), ("B_OK", "1"), ("B_TRY", "0"), ("A_OK", "0"), ("A_TRY", "0"), ("ota_armed", "1")]
            .iter()
            .for_each(|(name, value)| new.set(name, value));
        std::fs::write(rig.folder.path().join("grubenv"), new.to_bytes().unwrap()).unwrap();
        let mended = rig.env.load().unwrap();
        assert_eq!((mended.pair.next(), mended.pair.standing(&b), mended.weakness), (&b, Standing::Good, None));
    }

    /// GRUB reads it, and so what it says counts: a slot on trial, too.
    #[test]
    fn a_block_of_another_length_is_read_said_and_replaced() {
        for length in [200, 512, 1023, 1025, 4096] {
            let rig = Rig::fresh();
            let (a, b) = (name("a"), name("b"));
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            let mut bytes = rig.bytes();
            bytes.resize(length, b'#');
            let path = rig.folder.path().join("grubenv");
            std::fs::write(&path, &bytes).unwrap();
            let loaded = rig.env.load().unwrap();
            assert!(loaded.weakness.unwrap().to_string().contains(&format!("has {length} bytes, expected 1024")));
            assert_eq!(loaded.pair.next(), &b, "{length}");
            let (mut old, mut kept) = (std::fs::File::open(path).unwrap(), Vec::new());
            rig.change(|pair| pair.boot().1.mark_good(&b)).unwrap();
            assert_eq!((rig.env.load().unwrap().weakness, rig.bytes().len(), rig.pair().next()), (None, BLOCK_BYTES, &b));
            std::io::Read::read_to_end(&mut old, &mut kept).unwrap();
            assert!(kept == bytes, "it was written in its place, of {length} bytes");
        }
    }

    /// As where a distribution has its block on the ESP, and a link to it in `/boot`.
    #[test]
    fn a_block_behind_a_link_is_replaced_where_it_lies_and_its_copy_is_there_before() {
        let mut rig = Rig::fresh();
        let (a, b) = (name("a"), name("b"));
        let link = rig.folder.path().join("link");
        std::os::unix::fs::symlink("grubenv", &link).unwrap();
        rig.env.env.clone_from(&link);
        let short = &Block::empty().to_bytes().unwrap()[..600];
        std::fs::write(&link, short).unwrap();
        // Nothing can be put in its place.
        let in_the_way = rig.folder.path().join("grubenv.new");
        std::fs::create_dir(&in_the_way).unwrap();
        rig.change(|pair| pair.arm(&b, &a)).unwrap_err();
        assert_eq!((rig.bytes().as_slice(), rig.env.copy_pair().is_some()), (short, true));
        std::fs::remove_dir(in_the_way).unwrap();
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert!(link.is_symlink());
        assert_eq!((rig.bytes().len(), rig.pair().next()), (BLOCK_BYTES, &b));
    }

    #[test]
    fn without_block_and_copy_there_is_an_error_that_says_what_to_do() {
        let rig = Rig::new(b"");
        let error = rig.env.load().unwrap_err().to_string();
        assert!(
            error.contains("expected an environment block that begins with")
                && error.contains("set ota_primary=SLOT ota_SLOT=good"),
            "{error}"
        );
        std::fs::remove_file(rig.folder.path().join("grubenv")).unwrap();
        assert!(rig.env.load().is_err());
        assert!(!rig.folder.path().join("grubenv").exists(), "it is never created");
    }

    #[test]
    fn a_block_whose_variables_take_more_than_a_sector_is_refused_and_stays() {
        let mut bytes = Block::empty().to_bytes().unwrap().to_vec();
        let long = format!("long={}\n", "x".repeat(600));
        bytes[25..25 + long.len()].copy_from_slice(long.as_bytes());
        let rig = Rig::new(&bytes);
        let (a, b) = (name("a"), name("b"));
        let error = rig.change(|pair| pair.arm(&b, &a)).unwrap_err();
        assert!(error.contains("expected at most 512"), "{error}");
        assert_eq!(rig.bytes(), bytes);
    }

    #[test]
    fn a_change_keeps_the_length_of_the_file_and_everything_behind_the_first_sector() {
        let rig = Rig::fresh();
        let before = rig.bytes();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        let after = rig.bytes();
        assert_eq!((after.len(), &after[SECTOR_BYTES..]), (BLOCK_BYTES, &before[SECTOR_BYTES..]));
        assert_ne!(after, before);
    }

    #[test]
    fn a_loader_that_has_not_written_here_is_found_out_before_a_download() {
        let rig = Rig::fresh();
        let error = rig.env.check_loader().unwrap_err().to_string();
        assert!(error.contains("has no variable ota_loader") && error.contains("does GRUB read another file"), "{error}");
        let mut block = Block::empty();
        block.set("ota_loader", "1");
        std::fs::write(rig.folder.path().join("grubenv"), block.to_bytes().unwrap()).unwrap();
        rig.env.check_loader().unwrap();
    }

    /// Of a file that may neither shrink nor grow, and has no name that something could be renamed to.
    #[test]
    fn the_block_is_written_in_place() {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use std::os::fd::AsRawFd as _;

        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::from(memfd_create(c"grubenv", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, &Block::empty().to_bytes().unwrap(), 0).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        let slots = ["a", "b"].map(|name| name.parse().unwrap());
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let env = GrubEnv::new(path, folder.path().join("grubenv.ota"), Spelling::Ota, slots);
        let (a, b) = (name("a"), name("b"));
        env.edit(Rewrite::IfDifferent, &mut |loaded| Ok(loaded.pair.clone().disarm(&b, &a).arm(&b, &a))).unwrap();
        assert_eq!(env.load().unwrap().pair.next(), &b);
    }
}
