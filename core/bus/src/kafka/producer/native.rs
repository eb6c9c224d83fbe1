//! The interface to librdkafka: records are handed over, their delivery reports come as callbacks.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};

use super::Shared;
use crate::kafka::client::{self, Health, lock};
use crate::kafka::{BusError, Outgoing};

pub(super) fn hand_over(native: &BaseProducer<Context>, number: usize, record: &Outgoing) -> Result<(), KafkaError> {
    let mut out = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&record.topic, number);
    if !record.key.is_empty() {
        out = out.key(record.key.as_bytes());
    }
    if !record.payload.is_empty() {
        out = out.payload(&record.payload);
    }
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(&value[..]) });
        }
        out = out.headers(headers);
    }
    native.send(out).map_err(|(error, _)| error)
}

/// The error as a permanent one, if no retry can help.
pub(super) fn permanent(error: &KafkaError, topic: &str) -> Option<BusError> {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord | Code::InvalidTopic) => {
            Some(BusError::Refused { topic: topic.to_owned(), why: error.to_string() })
        }
        _ => match error {
            KafkaError::Nul(_) => Some(BusError::Refused { topic: topic.to_owned(), why: error.to_string() }),
            _ => None,
        },
    }
}

pub(super) struct Context {
    pub shared: Arc<Shared>,
    pub health: Arc<Health>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.health.statistics(json);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        use rdkafka::message::Message as _;
        match result {
            Ok(_) => self.shared.finish(number, Ok(())),
            Err((error, message)) => match permanent(error, message.topic()) {
                Some(error) => self.shared.finish(number, Err(error)),
                None => self.shared.schedule_resend(&mut lock(&self.shared.state), error),
            },
        }
    }
}
