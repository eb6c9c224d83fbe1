//! How a graph index is built and walked, the same for the engine in the process and for the server. What the figures
//! below come from is `search/BENCH-million.md`.

/// Width of the beam in the graph search, at least. Among 1,000,000 x 256 vectors recall@10 was 0.91 at 128, 0.97 at 256 and
/// 0.98 at 384, in 2.7, 3.3 and 4.2 ms.
pub(crate) const MIN_BEAM: usize = 384;

/// Where a filter keeps fewer points of a segment than this, they are all compared, exactly. Several cameras together are
/// no region of the graph, which falls into islands under such a filter: ten cameras of a hundred lost a quarter of their
/// true hits there. It also spares the graph links that are made for filters alone, which was a quarter of the disk.
pub(crate) const COMPARE_ALL_BELOW: usize = 65_536;

/// The engine counts points in kilobytes of their f32 vectors.
pub(crate) fn kilobytes(points: usize, width: usize) -> usize {
    (points.saturating_mul(width.max(1) * 4) / 1024).max(1)
}
