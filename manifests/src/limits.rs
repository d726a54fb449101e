//! Every cap on a release record, in one place, each with its reason.

/// Longest record file. 4 MiB of window tables, 64 KiB of signed bytes, 32 signatures and the header fit with room to spare.
pub const MAX_RECORD_BYTES: u64 = 4 * 1024 * 1024 + 128 * 1024;

/// Longest signed part. A record of sixteen images with notes is about 8 KiB; the rest is room for later fields.
pub const MAX_SIGNED_BYTES: u64 = 64 * 1024;

/// Most signatures carried. A threshold of more than a few keys is never used; 32 allows several key generations side by side.
pub const MAX_SIGNATURES: u64 = 32;

/// Most windows in one record over all images: 4 MiB of digests, 32 GiB of image at 256 KiB a window, 128 GiB at 1 MiB.
pub const MAX_WINDOWS: u64 = 131_072;

/// Most images in one release (root, verity tree, kernel, files on the ESP).
pub const MAX_IMAGES: usize = 16;

/// Window size up to [`LARGE_IMAGE_BYTES`] of image. Measured: small windows cost nothing in size and bound memory and repair.
pub const WINDOW_BYTES: u32 = 256 * 1024;

/// Window size above [`LARGE_IMAGE_BYTES`], so that the table stays within [`MAX_WINDOWS`].
pub const LARGE_WINDOW_BYTES: u32 = 1024 * 1024;

/// Images above this use [`LARGE_WINDOW_BYTES`].
pub const LARGE_IMAGE_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Largest sequence: 2^53, so that every JSON reader holds it exactly.
pub const MAX_SEQUENCE: u64 = 1 << 53;

/// Longest version label.
pub const MAX_VERSION_CHARS: usize = 64;

/// Longest product, arch, board, channel and image name.
pub const MAX_NAME_CHARS: usize = 64;

/// Longest notes text or URL.
pub const MAX_NOTES_CHARS: usize = 16 * 1024;

/// Most channels and most revoked keys named in one record.
pub const MAX_LIST: usize = 64;

/// Most public keys in a keyring folder.
pub const MAX_KEYS: usize = 64;

/// Longest key file: one line of base64 and comments.
pub const MAX_KEY_FILE_BYTES: u64 = 4096;
