package lab

import (
	"sort"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Session is a BGP session as one of its two speakers sees it.
type Session struct {
	Neighbor string    `json:"neighbor"`
	State    string    `json:"state"` // established | down
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason,omitempty"` // why it is down
}

// sessionTable is the state of every BGP session, as the speakers report it.
type sessionTable struct {
	mu     sync.Mutex
	byNode map[string]map[string]Session // node -> neighbour
}

func newSessionTable() *sessionTable { return &sessionTable{byNode: map[string]map[string]Session{}} }

func (t *sessionTable) observe(e event.Event) {
	s := Session{Neighbor: e.Attr["neighbor"], Since: e.Wall, State: "down", Reason: e.Attr["reason"]}
	switch e.Kind {
	case "bgp.established":
		s.State = "established"
	case "bgp.down":
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byNode[e.Node] == nil {
		t.byNode[e.Node] = map[string]Session{}
	}
	t.byNode[e.Node][s.Neighbor] = s
}

func (t *sessionTable) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byNode, node)
}

func (t *sessionTable) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.byNode)
}

// of lists node's sessions by neighbour; expected neighbours that were never
// reported are down.
func (t *sessionTable) of(node string, expected []string) []Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Session
	for _, n := range expected {
		s, ok := t.byNode[node][n]
		if !ok {
			s = Session{Neighbor: n, State: "down", Reason: "not established yet"}
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Neighbor < out[j].Neighbor })
	return out
}
