package fidelity

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// systemPython is the one that Debian's packages are for.
const systemPython = "/usr/bin/python3"

//go:embed peer.py
var mininetProgram string

// peerTests are done on Mininet's link, too.
var peerTests = []struct {
	name string
	do   func(r *run, ctx context.Context, b *bench) error
}{
	{"F1", (*run).gaps}, {"F2", (*run).goodputs}, {"F3", (*run).delaysAndJitter},
}

// peer measures the links of the peer that was asked for. One that is not
// installed is no error: the calibration says so.
func (r *run) peer(ctx context.Context) error {
	if r.Peer == "" {
		return nil
	}
	if why := noMininet(); why != "" {
		r.out.Peers = append(r.out.Peers, metrics.PeerMissing{System: systemMininet, Why: why})
		return nil
	}
	r.tell("start Mininet")
	m, err := startMininet(ctx)
	if err != nil {
		return fmt.Errorf("mininet: %w", err)
	}
	for _, t := range peerTests {
		if !slices.Contains(r.Once(), t.name) {
			continue
		}
		if err = t.do(r, ctx, m.bench()); err != nil {
			err = fmt.Errorf("mininet: %w", err)
			break
		}
	}
	return errors.Join(err, m.stop())
}

// noMininet says why Mininet cannot be measured; "": it can.
func noMininet() string {
	if _, err := os.Stat(systemPython); err != nil {
		return "there is no " + systemPython
	}
	if err := exec.Command(systemPython, "-c", "import mininet.net").Run(); err != nil {
		return "it is not installed (apt-get install mininet)"
	}
	return ""
}

// mininet is a running Mininet with the nodes of a bench.
type mininet struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	err  strings.Builder
	pids map[string]int
}

func startMininet(ctx context.Context) (*mininet, error) {
	// mnexec closes every descriptor that a process may have, one call each:
	// with a limit of a million that alone takes a minute a node.
	m := &mininet{cmd: exec.CommandContext(ctx, "/bin/sh", "-c", `ulimit -n 2048; exec "$0" -c "$1"`, systemPython, mininetProgram)}
	m.cmd.Stderr = &m.err
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.out = bufio.NewScanner(out)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	var said struct{ PIDs map[string]int }
	if err := m.reply(&said); err != nil {
		return nil, fmt.Errorf("build the bench: %w", errors.Join(err, m.stop()))
	}
	m.pids = said.PIDs
	return m, nil
}

// reply reads a line of the program.
func (m *mininet) reply(said any) error {
	if !m.out.Scan() {
		return fmt.Errorf("it ended: %s", strings.TrimSpace(m.err.String()))
	}
	return json.Unmarshal(m.out.Bytes(), said)
}

func (m *mininet) stop() error {
	m.in.Close()
	for m.out.Scan() { // what it still says
	}
	if err := m.cmd.Wait(); err != nil {
		return fmt.Errorf("mininet: stop: %w: %s", err, strings.TrimSpace(m.err.String()))
	}
	return nil
}

// bench of its one link.
func (m *mininet) bench() *bench {
	return &bench{
		system: systemMininet, limit: 1,
		enter: func(node string, fn func() error) error {
			pid, ok := m.pids[node]
			if !ok {
				return fmt.Errorf("mininet has no node %s", node)
			}
			return fabric.Within("/proc/"+strconv.Itoa(pid)+"/ns/net", fn)
		},
		set: func(_ context.Context, links []topo.Impairment) error { return m.set(links[0]) },
	}
}

// set makes the link what a user of TCLink would write.
func (m *mininet) set(i topo.Impairment) error {
	params, err := json.Marshal(linkParams(i))
	if err != nil {
		return err
	}
	if _, err := m.in.Write(append(params, '\n')); err != nil {
		return fmt.Errorf("mininet: set link: %w", err)
	}
	var answer struct{ Said []string }
	if err := m.reply(&answer); err != nil {
		return fmt.Errorf("mininet: set link to %s: %w", params, err)
	}
	if len(answer.Said) > 0 {
		return fmt.Errorf("mininet: set link to %s: tc says %s", params, strings.Join(answer.Said, "; "))
	}
	return nil
}

// linkParams are the arguments of TCIntf.config.
func linkParams(i topo.Impairment) map[string]any {
	p := map[string]any{}
	if i.Rate > 0 {
		p["bw"] = float64(i.Rate) / 1e6
	}
	if i.Delay > 0 || i == (topo.Impairment{}) { // asked for nothing, TCIntf leaves what there is
		p["delay"] = fmt.Sprintf("%.0fus", float64(i.Delay)/1e3)
	}
	if i.Jitter > 0 {
		p["jitter"] = fmt.Sprintf("%.0fus", float64(i.Jitter)/1e3)
	}
	if i.Loss > 0 {
		p["loss"] = float64(i.Loss)
	}
	if i.Queue > 0 {
		p["max_queue_size"] = i.Queue
	}
	return p
}
