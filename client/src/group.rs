//! One answer for many: what a batch of publishes or settlements waits on.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::Error;

/// What the members of one batch wait for.
///
/// One allocation and one lock serve the whole batch, however many members wait on it.
#[derive(Debug)]
pub(crate) struct Group<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    outcome: Option<Result<Arc<T>, Error>>,
    /// Members that were refused alone, and why.
    refused: Vec<(usize, Error)>,
    /// Who waits, by member.
    wakers: Vec<Option<Waker>>,
}

impl<T> Group<T> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { outcome: None, refused: Vec::new(), wakers: Vec::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Answers one member; the others go on waiting.
    pub(crate) fn refuse(&self, member: usize, error: Error) {
        let mut state = self.state.lock();
        state.refused.push((member, error));
        let waker = state.wakers.get_mut(member).and_then(Option::take);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Answers every member that has no answer yet. Only the first call counts.
    pub(crate) fn finish(&self, outcome: Result<T, Error>) {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome.map(Arc::new));
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits for the answers of several members; what was refused of them.
    fn poll_range(
        &self,
        members: &Range<usize>,
        cx: &Context<'_>,
    ) -> Poll<Result<Vec<(usize, Error)>, Error>> {
        let mut state = self.state.lock();
        match &state.outcome {
            None => {
                state.wait(members.start, cx);
                Poll::Pending
            }
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            Some(Ok(_)) => {
                let of_these = |(member, _): &&(usize, Error)| members.contains(member);
                Poll::Ready(Ok(state.refused.iter().filter(of_these).cloned().collect()))
            }
        }
    }

    fn poll_member(&self, member: usize, cx: &Context<'_>) -> Poll<Result<Arc<T>, Error>> {
        let mut state = self.state.lock();
        if let Some((_, error)) = state.refused.iter().find(|(refused, _)| *refused == member) {
            return Poll::Ready(Err(error.clone()));
        }
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        state.wait(member, cx);
        Poll::Pending
    }
}

impl<T> State<T> {
    fn wait(&mut self, member: usize, cx: &Context<'_>) {
        if self.wakers.len() <= member {
            self.wakers.resize(member + 1, None);
        }
        self.wakers[member] = Some(cx.waker().clone());
    }
}

/// Waits for the answer of one member of a [`Group`].
#[derive(Debug)]
pub(crate) struct Member<T> {
    group: Arc<Group<T>>,
    member: usize,
}

impl<T> Member<T> {
    pub(crate) fn new(group: Arc<Group<T>>, member: usize) -> Self {
        Self { group, member }
    }

    pub(crate) fn position(&self) -> usize {
        self.member
    }
}

impl<T> Future for Member<T> {
    type Output = Result<Arc<T>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.group.poll_member(self.member, cx)
    }
}

/// Waits for the answers of several members of a [`Group`].
#[derive(Debug)]
pub(crate) struct Members<T> {
    group: Arc<Group<T>>,
    members: Range<usize>,
}

impl<T> Members<T> {
    pub(crate) fn new(group: Arc<Group<T>>, members: Range<usize>) -> Self {
        Self { group, members }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Adds a member where it is the next one of the same group.
    pub(crate) fn takes(&mut self, group: &Arc<Group<T>>, member: usize) -> bool {
        let next = Arc::ptr_eq(&self.group, group) && self.members.end == member;
        self.members.end += usize::from(next);
        next
    }
}

impl<T> Future for Members<T> {
    /// The refused members, counted from the first of these; or what all were answered with.
    type Output = Result<Vec<(usize, Error)>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.group.poll_range(&self.members, cx).map_ok(|mut refused| {
            refused.iter_mut().for_each(|(member, _)| *member -= self.members.start);
            refused.sort_unstable_by_key(|(member, _)| *member);
            refused
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_member_is_answered_before_the_rest() {
        let group = Group::<u8>::new();
        let other = tokio::spawn(Member::new(Arc::clone(&group), 0));
        group.refuse(1, Error::Closed("no".to_owned()));

        let refused = Member::new(Arc::clone(&group), 1).await;
        assert_eq!(refused.unwrap_err(), Error::Closed("no".to_owned()));
        assert!(!other.is_finished());

        group.finish(Ok(7));
        group.finish(Ok(8));
        assert_eq!(*other.await.unwrap().unwrap(), 7);
    }
}
