//! The processors of one answer, in order: what one emits is what the next one sees.

mod link;

use std::sync::Arc;

use crate::chain::Chain;
use crate::error::ChainFailure;
use crate::plugin::Stage;
use crate::rooms::Claim;
use crate::state::RequestScope;
use crate::types::{AnswerContext, Delta, FinishReason, Output};
use link::{Flow, Link};

const STAGE: Stage = Stage::Respond;

/// Runs the processors of one answer. Owns its instances; one per choice, each may live on a task
/// of its own.
pub struct Responder {
    /// Until they are made.
    start: Option<Start>,
    links: Vec<Link>,
    end: Option<End>,
}

/// What the processors are made for.
struct Start {
    chain: Arc<Chain>,
    scope: Arc<RequestScope>,
    context: AnswerContext,
}

/// How the answer ended before or with `finish`.
#[derive(Clone)]
enum End {
    Finished,
    Cut(FinishReason),
    Failed(ChainFailure),
}

impl Responder {
    /// Makes no processor yet.
    ///
    /// # Errors
    /// One that fails closed has an open circuit breaker.
    pub(crate) fn new(
        chain: &Arc<Chain>,
        scope: &Arc<RequestScope>,
        context: AnswerContext,
    ) -> Result<Self, ChainFailure> {
        for (_, bound) in chain.stage(STAGE) {
            if bound.fails_closed(STAGE) {
                let checked = bound.check_breaker(scope, STAGE);
                checked.map_err(|failure| failure.in_chain(bound, STAGE))?;
            }
        }
        Ok(Self {
            start: Some(Start {
                chain: Arc::clone(chain),
                scope: Arc::clone(scope),
                context,
            }),
            links: Vec::new(),
            end: None,
        })
    }

    /// Makes the processors, unless that was done before. [`push`](Self::push) and
    /// [`finish`](Self::finish) do so themselves.
    ///
    /// # Errors
    /// One that fails closed could not be made; the answer is over.
    pub async fn begin(&mut self) -> Result<(), ChainFailure> {
        let Some(start) = self.start.take() else {
            return Ok(());
        };
        let made = start.links().await;
        self.links = made.inspect_err(|failure| self.end = Some(End::Failed(failure.clone())))?;
        Ok(())
    }

    /// Whether no processor looks at the answer: every delta is emitted as it is.
    pub fn is_passthrough(&self) -> bool {
        let to_come = self.start.as_ref();
        let is_to_come = to_come.is_some_and(|start| start.chain.stage(STAGE).next().is_some());
        !is_to_come && self.links.iter().all(Link::is_passthrough)
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
        self.begin().await?;
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

impl Start {
    /// A link for each processor, all in room that is taken at once.
    async fn links(self) -> Result<Vec<Link>, ChainFailure> {
        let bound: Vec<_> = self.chain.stage(STAGE).map(|(_, bound)| bound).collect();
        let Some(first) = bound.first() else {
            return Ok(Vec::new());
        };
        let shared = &first.binding.plugin.artifact().shared;
        let reserved = shared.reserve(Claim {
            route: &first.profile.route,
            count: u32::try_from(bound.len()).unwrap_or(u32::MAX),
            is_nested: false,
        });
        let (reserved, context) = (reserved.await, Arc::new(self.context));
        let mut links = Vec::with_capacity(bound.len());
        for bound in bound {
            links.push(match &reserved {
                Ok(room) => Link::new(bound, &self.scope, &context, room).await?,
                Err(failure) => Link::without_room(bound, &self.scope, failure.clone())?,
            });
        }
        Ok(links)
    }
}
