//! Callbacks of librdkafka: partitions are assigned and revoked, commits are answered, errors and
//! statistics are reported.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::member::{POLL, Shared, gauge_lag};
use crate::kafka::client::{self, lock};
use crate::tracker::Partition;

pub(super) struct Context {
    pub shared: Arc<Shared>,
}

impl Context {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        list.elements().iter().map(|e| self.shared.partition(e.topic(), e.partition())).collect()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
            tracing::warn!(reason, "a topic is not there");
        }
        self.shared.health.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(statistics) = self.shared.health.statistics(json) else { return };
        let state = lock(&self.shared.state);
        for (topic, all) in &statistics.topics {
            for p in all.partitions.values() {
                let partition = self.shared.partition(topic, p.partition);
                if let (Some(position), true) = (state.tracker.position(&partition), p.hi_offset >= 0) {
                    gauge_lag(&partition, (p.hi_offset - position).max(0));
                }
            }
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        metrics::counter!("sightline_bus_rebalances_total").increment(1);
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.partitions(list);
                tracing::info!(?partitions, "partitions given to this process");
                let mut state = lock(&self.shared.state);
                for partition in partitions {
                    state.tracker.assign(partition);
                }
                drop(state);
                self.shared.health.joined();
            }
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                let began = Instant::now();
                self.shared.give_up(consumer, &partitions);
                metrics::histogram!("sightline_bus_drain_seconds").record(began.elapsed().as_secs_f64());
                tracing::info!(?partitions, seconds = began.elapsed().as_secs_f64(), "partitions given up");
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let good = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (e.error(), e.offset()) {
            (Ok(()), Offset::Offset(position)) => Some((self.shared.partition(e.topic(), e.partition()), position)),
            _ => None,
        };
        match result {
            Ok(()) => self.shared.committed(&offsets.elements().iter().filter_map(good).collect::<Vec<_>>()),
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) => {}
            Err(error) => {
                metrics::counter!("sightline_bus_commit_errors_total").increment(1);
                tracing::debug!(%error, "commit; the next one comes in a second");
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> rdkafka::util::Timeout {
        rdkafka::util::Timeout::After(POLL)
    }
}
