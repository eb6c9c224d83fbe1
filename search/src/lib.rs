//! Vector store, gallery, indexer and two-stage search. The crate needs no server and no system
//! library: Qdrant's engine runs inside the process. Where the roles are separate processes, a
//! Qdrant server and a shared folder or object storage replace the local stores.
//!
//! ```text
//! IndexEvent --> indexer: journal, gallery (fsync), then upsert, then flush, then coverage advances
//! query --> encoder --> vector search with the filter inside --> tracks --> patch features of the best K
//!       --> decoder --> score by match --> hits, pages
//! ```
//!
//! On disk, below the data folder:
//!
//! ```text
//! vectors/<model id>/   lock, store.json (model id, width), shard/ (Qdrant's own files)
//! reindex/<model id>/   the same for a model whose index is incomplete; moves to vectors/ when it is complete
//! gallery/              lock, jpeg/<xyz>/<sighting>.<hash>.jpg, patches/<model id>/<xyz>/<sighting>.<hash>.patches, tmp/,
//!                       replaced/<hour>/<xyz>/ (pictures whose slot a better one took, for an hour or two),
//!                       quarantine/<day>/ (pictures that no index knew, for seven days)
//! erasures/             tombstones: what is erased and must not come back
//! batch.journal         ids of the batch that is being stored
//! reserve               16 MB, released for erasures when the disk is full
//! ```

pub mod coverage;
mod disk;
pub mod encoder;
pub mod erase;
pub mod files;
pub mod gallery;
pub mod index;
pub mod indexer;
mod picture;
pub mod reindex;
mod remote;
mod reserve;
pub mod retention;
pub mod searcher;
pub mod store;

pub use coverage::{CameraCoverage, Coverage, CoverageLedger, CoverageSnapshot, KnownCoverage, RemoteCoverage};
pub use disk::WatchedFolders;
pub use encoder::{EncodeError, EncodedText, MatchScore, PhraseAsked, QueryEncoder};
pub use erase::{EraseError, Eraser, Journals, Progress, Receipt, Recovered, Tombstone, TombstoneLedger, Tombstones};
pub use files::{DataLock, FileError};
pub use gallery::{
    CheckError, FolderGallery, Gallery, GalleryCheck, GalleryEntry, GalleryError, GalleryReport, ObjectGallery,
    open_gallery,
};
pub use index::{Index, IndexError, IndexParts};
pub use indexer::{IndexerError, IndexerOptions, Sink};
pub use picture::{CropHash, CropHashError, PictureKey};
pub use reserve::DiskReserve;
pub use searcher::{Hit, PhraseTruth, SearchError, SearchRequest, SearchResponse, Searcher, Sort, Timings};
pub use store::{
    AllModels, CameraExtent, Deleted, EdgeOptions, EdgeStore, ExactStore, Filter, Payload, Point, Record, Scope,
    Scored, StoreError, VectorStore, indexed_models,
};
#[cfg(feature = "server")]
pub use store::{QdrantStore, ServerCoverage, ServerTombstones};
