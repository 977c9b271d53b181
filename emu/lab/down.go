package lab

import "sync"

// holds are what faults keep down, by how many of them do: nodes with all their
// processes, and single processes. Who starts processes again asks before, and
// is told when that is over (see Lab.boot).
type holds struct {
	mu        sync.Mutex
	nodes     map[string]int
	processes map[heldProcess]int
}

// heldProcess is a process as topo.Fault.Process names it, at a node.
type heldProcess struct{ node, process string }

// Processes that can be held.
const (
	speakerProcess = "speaker"
	repairProcess  = "repair"
	agentProcess   = "agent"
	witnessProcess = "witness"
	guestProcess   = "guest"
)

func newHolds() *holds {
	return &holds{nodes: map[string]int{}, processes: map[heldProcess]int{}}
}

// keep has nodes and processes stay down until let is called as often.
func (h *holds) keep(nodes []string, processes ...heldProcess) {
	h.add(1, nodes, processes)
}

func (h *holds) let(nodes []string, processes ...heldProcess) {
	h.add(-1, nodes, processes)
}

func (h *holds) add(n int, nodes []string, processes []heldProcess) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, node := range nodes {
		if h.nodes[node] += n; h.nodes[node] == 0 {
			delete(h.nodes, node)
		}
	}
	for _, p := range processes {
		if h.processes[p] += n; h.processes[p] == 0 {
			delete(h.processes, p)
		}
	}
}

// are lists the nodes that are down.
func (h *holds) are() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := map[string]bool{}
	for node := range h.nodes {
		down[node] = true
	}
	return down
}

// reset forgets all.
func (h *holds) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.nodes)
	clear(h.processes)
}

// down tells whether a fault keeps a node down.
func (l *Lab) down(node string) bool {
	l.holds.mu.Lock()
	defer l.holds.mu.Unlock()
	return l.holds.nodes[node] > 0
}

// held tells whether a fault keeps a process of a node from running, or all of
// the node.
func (l *Lab) held(node, process string) bool {
	l.holds.mu.Lock()
	defer l.holds.mu.Unlock()
	return l.holds.nodes[node] > 0 || l.holds.processes[heldProcess{node, process}] > 0
}
