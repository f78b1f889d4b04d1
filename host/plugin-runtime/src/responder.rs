//! The processors of one answer, in order: what one emits is what the next one sees.

mod link;

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::chain::Chain;
use crate::error::ChainFailure;
use crate::plugin::Stage;
use crate::state::RequestScope;
use crate::types::{AnswerContext, Delta, FinishReason, Output};
use link::{Flow, Link};

/// Runs the processors of one answer. Owns its instances; one per choice, each may live on a task
/// of its own.
pub struct Responder {
    links: Vec<Link>,
    end: Option<End>,
    /// Room for the instances. Last, since it must be given back after them.
    _room: Option<OwnedSemaphorePermit>,
}

/// How the answer ended before or with `finish`.
#[derive(Clone)]
enum End {
    Finished,
    Cut(FinishReason),
    Failed(ChainFailure),
}

impl Responder {
    pub(crate) async fn new(
        chain: &Chain,
        scope: &Arc<RequestScope>,
        context: AnswerContext,
    ) -> Result<Self, ChainFailure> {
        let bound: Vec<_> = chain
            .stage(Stage::Respond)
            .map(|(_, bound)| bound)
            .collect();
        let Some(first) = bound.first() else {
            return Ok(Self {
                links: Vec::new(),
                end: None,
                _room: None,
            });
        };
        let context = Arc::new(context);
        let count = u32::try_from(bound.len()).unwrap_or(u32::MAX);
        let reserved = first.binding.plugin.artifact().shared.reserve(count).await;
        let mut links = Vec::with_capacity(bound.len());
        let room = match reserved {
            Ok(room) => {
                for bound in bound {
                    links.push(Link::new(bound, scope, &context).await?);
                }
                Some(room)
            }
            Err(failure) => {
                for bound in bound {
                    links.push(Link::without_room(bound, scope, failure.clone())?);
                }
                None
            }
        };
        Ok(Self {
            links,
            end: None,
            _room: room,
        })
    }

    /// Whether no processor looks at the answer: every delta is emitted as it is.
    pub fn is_passthrough(&self) -> bool {
        self.links.iter().all(Link::is_passthrough)
    }

    /// Passes the next delta through the processors. A delta without text reaches none of them.
    /// After a cut, and after `finish`, nothing more is emitted.
    ///
    /// # Errors
    /// A processor failed that fails closed; the answer is over.
    pub async fn push(&mut self, delta: Delta) -> Result<Output, ChainFailure> {
        self.step(Flow {
            delta: Some(delta),
            end: None,
            cut: false,
        })
        .await
    }

    /// Ends the answer: what processors still hold comes out. A [`Output::Cut`] means that a
    /// plugin changed the reason.
    ///
    /// # Errors
    /// A processor failed that fails closed; what it held is withheld.
    pub async fn finish(&mut self, reason: FinishReason) -> Result<Output, ChainFailure> {
        self.step(Flow {
            delta: None,
            end: Some(reason),
            cut: false,
        })
        .await
    }

    async fn step(&mut self, mut flow: Flow) -> Result<Output, ChainFailure> {
        match &self.end {
            None => {}
            Some(End::Finished) => return Ok(Output::Emit(String::new())),
            Some(End::Cut(reason)) => {
                return Ok(Output::Cut {
                    reason: *reason,
                    text: String::new(),
                });
            }
            Some(End::Failed(failure)) => return Err(failure.clone()),
        }
        for link in &mut self.links {
            if let Err(failure) = link.step(&mut flow).await {
                self.end = Some(End::Failed(failure.clone()));
                return Err(failure);
            }
        }
        let text = flow.delta.map(|delta| delta.text).unwrap_or_default();
        if flow.end.is_some() {
            self.release().await;
        }
        match flow.end {
            None => Ok(Output::Emit(text)),
            Some(reason) if flow.cut => {
                self.end = Some(End::Cut(reason));
                Ok(Output::Cut { reason, text })
            }
            Some(_) => {
                self.end = Some(End::Finished);
                Ok(Output::Emit(text))
            }
        }
    }

    /// The answer is over: instances that may serve on are given back.
    async fn release(&mut self) {
        for link in &mut self.links {
            link.release().await;
        }
    }
}
