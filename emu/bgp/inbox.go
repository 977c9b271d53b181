package bgp

import "sync"

// inbox is an unbounded queue: GoBGP's watcher and log must never wait for
// the loop, which itself waits for GoBGP. What cannot wait for thousands of
// routes overtakes the rest.
type inbox struct {
	mu     sync.Mutex
	urgent []livenessMsg
	items  []any
	signal chan struct{}
}

func newInbox() *inbox { return &inbox{signal: make(chan struct{}, 1)} }

func (b *inbox) put(m any) {
	b.mu.Lock()
	if u, ok := m.(livenessMsg); ok {
		b.urgent = append(b.urgent, u)
	} else {
		b.items = append(b.items, m)
	}
	b.mu.Unlock()
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (b *inbox) take() []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = nil
	return items
}

// takeUrgent empties that of what is urgent.
func (b *inbox) takeUrgent() []livenessMsg {
	b.mu.Lock()
	defer b.mu.Unlock()
	urgent := b.urgent
	b.urgent = nil
	return urgent
}
