//! The list of what is on, for readers that may come from anywhere: an allocator that is asked for memory in the middle
//! of a commit, a constructor of a patch library, a handler of fork. So reading takes no lock and waits for nobody.
//!
//! A list never changes; a new one takes its place. The old one is freed when nobody reads any list: a reader counts
//! itself in, then takes the list; who publishes puts the new list there, then looks at the count. Both sequentially
//! consistent, so who finds the count zero knows that all later readers take the new list. If the count is not zero,
//! the old list waits for the next time.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

thread_local! {
    /// How many of the readers this thread is: more than one if its allocator reads as well. Without a destructor, so
    /// it may be used at any time.
    static MINE: Cell<usize> = const { Cell::new(0) };
}

/// A list that is published as a whole.
#[derive(Debug)]
pub(super) struct List<T> {
    /// Null, or a list that nobody frees as long as it stands here.
    now: AtomicPtr<Node<T>>,
    /// How many may have taken a list and use it still.
    readers: AtomicUsize,
    /// Lists that were replaced, and may be in use.
    old: AtomicPtr<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    items: Vec<Arc<T>>,
    /// The next in `old`. Used by whoever took the node from there only.
    next: *mut Node<T>,
}

// SAFETY: nodes hold `Arc<T>`, which are cloned by readers and dropped by whoever publishes, on any thread.
unsafe impl<T: Send + Sync> Sync for List<T> {}

impl<T> List<T> {
    pub(super) const fn new() -> Self {
        Self {
            now: AtomicPtr::new(ptr::null_mut()),
            readers: AtomicUsize::new(0),
            old: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// What was published last. Allocates the answer.
    pub(super) fn read(&self) -> Vec<Arc<T>> {
        let reading = Reading::begin(self);
        let now = self.now.load(SeqCst);
        // SAFETY: null or a published node, which is not freed while we are counted.
        let items = unsafe { now.as_ref() }.map_or_else(Vec::new, |node| node.items.clone());
        drop(reading);
        items
    }

    /// Puts `items` in the place of what was published before.
    pub(super) fn publish(&self, items: Vec<Arc<T>>) {
        let node = Box::into_raw(Box::new(Node { items, next: ptr::null_mut() }));
        let before = self.now.swap(node, SeqCst);
        let all = self.old.swap(ptr::null_mut(), SeqCst);
        let mut unused = Chain(all);
        // SAFETY: out of `now` by the swap, so that nobody else has it to put it away.
        unsafe { unused.push(before) };
        if self.readers.load(SeqCst) == 0 {
            // SAFETY: none of these nodes was in `now` when the count was zero, and none comes back.
            unsafe { unused.free() };
        } else {
            self.put_away(unused);
        }
    }

    /// For the next time.
    fn put_away(&self, mut nodes: Chain<T>) {
        while let Some(node) = nodes.pop() {
            let mut first = self.old.load(SeqCst);
            loop {
                // SAFETY: taken from the chain, so it is ours until it stands in `old`.
                unsafe { (*node).next = first };
                match self.old.compare_exchange(first, node, SeqCst, SeqCst) {
                    Ok(_) => break,
                    Err(other) => first = other,
                }
            }
        }
    }

    /// In a forked child: of the readers only this thread is left.
    pub(super) fn reset_in_child(&self) {
        self.readers.store(MINE.get(), SeqCst);
    }
}

/// Nodes that belong to whoever has the chain; readers may still look at their items.
struct Chain<T>(*mut Node<T>);

impl<T> Chain<T> {
    /// # Safety
    /// `node` is null or belongs to the caller.
    unsafe fn push(&mut self, node: *mut Node<T>) {
        if !node.is_null() {
            // SAFETY: the caller's promise; readers look at items only.
            unsafe { (*node).next = self.0 };
            self.0 = node;
        }
    }

    fn pop(&mut self) -> Option<*mut Node<T>> {
        let node = self.0;
        if node.is_null() {
            return None;
        }
        // SAFETY: a node of the chain.
        self.0 = unsafe { (*node).next };
        Some(node)
    }

    /// # Safety
    /// Nobody reads any of them.
    unsafe fn free(mut self) {
        while let Some(node) = self.pop() {
            // SAFETY: made by `publish` of a box; the caller's promise.
            drop(unsafe { Box::from_raw(node) });
        }
    }
}

/// Counts a reader while it lives. A signal handler that forks between the two counts makes the child count one too many,
/// never too few.
struct Reading<'l, T>(&'l List<T>);

impl<'l, T> Reading<'l, T> {
    fn begin(list: &'l List<T>) -> Self {
        MINE.set(MINE.get() + 1);
        list.readers.fetch_add(1, SeqCst);
        Self(list)
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, SeqCst);
        MINE.set(MINE.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn what_was_published_last_is_read_and_the_rest_is_freed() {
        let list = List::new();
        assert!(list.read().is_empty());
        let (one, two) = (Arc::new(1), Arc::new(2));
        list.publish(vec![Arc::clone(&one), Arc::clone(&two)]);
        assert_eq!(list.read(), [Arc::clone(&one), Arc::clone(&two)]);
        list.publish(vec![Arc::clone(&two)]);
        assert_eq!(list.read(), [Arc::clone(&two)]);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 2));
        list.publish(Vec::new());
        assert_eq!(Arc::strong_count(&two), 1);
    }

    #[test]
    fn nothing_is_freed_under_a_reader_and_all_of_it_later() {
        let list = List::new();
        let items: Vec<Arc<u32>> = (0..10).map(Arc::new).collect();
        let reading = Reading::begin(&list);
        for item in &items {
            list.publish(vec![Arc::clone(item)]);
        }
        assert!(items.iter().all(|item| Arc::strong_count(item) == 2));
        drop(reading);
        list.publish(Vec::new());
        assert!(items.iter().all(|item| Arc::strong_count(item) == 1));
    }

    #[test]
    fn readers_of_other_threads_are_forgotten_in_a_child() {
        let list: List<u32> = List::new();
        std::thread::scope(|scope| {
            // As if these had been in the middle when another thread forked.
            (0..3).for_each(|_| drop(scope.spawn(|| std::mem::forget(Reading::begin(&list)))));
        });
        let mine = Reading::begin(&list);
        list.reset_in_child();
        assert_eq!(list.readers.load(SeqCst), 1);
        drop(mine);
        assert_eq!(list.readers.load(SeqCst), 0);
    }

    #[test]
    fn readers_and_writers_together() {
        let (list, done) = (List::new(), AtomicBool::new(false));
        let items: Vec<Arc<u64>> = (0..100).map(Arc::new).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        let read = list.read();
                        assert!(read.windows(2).all(|pair| *pair[0] + 1 == *pair[1]));
                    }
                });
            }
            let writers = [0, 1].map(|_| {
                scope.spawn(|| (0..2000).for_each(|turn| list.publish(items[turn % 90..][..10].to_vec())))
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, SeqCst);
        });
        list.publish(Vec::new());
        assert!(items.iter().all(|item| Arc::strong_count(item) == 1));
    }
}
