//! Settings of the graph index, the same for the embedded engine and for the server.
//! `search/BENCH-million.md` has the measurements.

/// Smallest beam width of the graph search. Among 1,000,000 x 256 vectors recall@10 was 0.91 at
/// 128, 0.97 at 256 and 0.98 at 384, in 2.7, 3.3 and 4.2 ms.
pub(crate) const MIN_BEAM: usize = 384;

/// Number of points of a segment below which a filter's points are all compared, exactly. The
/// points of several cameras together are no region of the graph, which falls into islands under
/// such a filter: ten cameras of a hundred lost a quarter of their true hits there. It also saves
/// the graph links that exist for filters alone, a quarter of the disk.
pub(crate) const COMPARE_ALL_BELOW: usize = 65_536;

/// Converts a number of points to kilobytes of f32 vectors, the engine's unit.
pub(crate) fn kilobytes(points: usize, width: usize) -> usize {
    (points.saturating_mul(width.max(1) * 4) / 1024).max(1)
}
