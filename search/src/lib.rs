//! Vector store, gallery, indexer and two-stage search. The crate needs no server and no system
//! library: Qdrant's engine runs inside the process. Where the roles are separate processes, a
//! Qdrant server and a shared folder or object storage replace the local stores.
//!
//! ```text
//! IndexEvent --> indexer: gallery (fsync), then upsert, then flush, then coverage advances
//! query --> encoder --> vector search with the filter inside --> tracks --> patch features of the best K
//!       --> decoder --> score by match --> hits, pages
//! ```
//!
//! On disk, below the data folder:
//!
//! ```text
//! vectors/<model id>/   lock, store.json (model id, width), shard/ (Qdrant's own files)
//! reindex/<model id>/   the same for a model whose index is incomplete; moves to vectors/ when it is complete
//! gallery/              lock, jpeg/<xyz>/<sighting>.jpg, patches/<model id>/<xyz>/<sighting>.patches, tmp/
//! erasures/             journals of unfinished erasures
//! ```

pub mod coverage;
#[cfg(feature = "double")]
pub mod double;
pub mod encoder;
pub mod erase;
mod files;
pub mod gallery;
pub mod index;
pub mod indexer;
pub mod reindex;
mod remote;
pub mod retention;
pub mod searcher;
pub mod store;

pub use coverage::{CameraCoverage, Coverage, CoverageLedger, CoverageSnapshot, KnownCoverage, RemoteCoverage};
pub use encoder::{EncodeError, EncodedText, MatchScore, PhraseAsked, QueryEncoder};
pub use erase::{EraseError, Receipt, erase, resume_erasures, sweep_orphans};
pub use files::{DataLock, FileError};
pub use gallery::{FolderGallery, Gallery, GalleryEntry, GalleryError, ObjectGallery, open_gallery};
pub use index::{Index, IndexError, IndexParts};
pub use indexer::{IndexerError, IndexerOptions};
pub use searcher::{Hit, PhraseTruth, SearchError, SearchRequest, SearchResponse, Searcher, Sort, Timings};
pub use store::{
    AllModels, CameraExtent, EdgeOptions, EdgeStore, ExactStore, Filter, Payload, Point, Record, Scored, StoreError,
    VectorStore, indexed_models,
};
#[cfg(feature = "server")]
pub use store::{QdrantStore, ServerCoverage};
