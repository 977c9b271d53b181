package speed

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netns"
)

// systemPython is the one that Debian's packages are for.
const systemPython = "/usr/bin/python3"

//go:embed testdata/mininet_star.py
var mininetProgram string

// mininet builds the star with Debian's package mininet: a Linux bridge as its
// switch, and all that a Mininet host is, a shell process among it. The program
// takes the times itself, so that neither the start of Python nor of Mininet's
// modules counts.
func mininet(n int) (*built, error) {
	m, err := startMininet(n)
	if err != nil {
		return nil, fmt.Errorf("mininet: %w", err)
	}
	return &built{took: m.took(), within: m.within, destroy: m.destroy}, nil
}

// noMininet says why Mininet cannot take part; "": it can.
func noMininet() string {
	if _, err := os.Stat(systemPython); err != nil {
		return "there is no " + systemPython
	}
	if err := exec.Command(systemPython, "-c", "import mininet.net").Run(); err != nil {
		return "it is not installed (apt-get install mininet)"
	}
	return ""
}

type mininetStar struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	err  strings.Builder
	said mininetReply
}

// mininetReply is a line of the program.
type mininetReply struct {
	Seconds float64 `json:"seconds"` // of what was asked
	PIDs    []int   `json:"pids"`    // of the machines' shells
}

// startMininet starts the program, and has it build.
func startMininet(n int) (*mininetStar, error) {
	// mnexec closes every descriptor that a process may have, one call each: with
	// this kernel's limit of a million that alone takes a minute a machine.
	m := &mininetStar{cmd: exec.Command("/bin/sh", "-c", `ulimit -n 2048; exec "$0" -c "$1" "$2"`, systemPython, mininetProgram, fmt.Sprint(n))}
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
	m.out.Buffer(nil, 1<<20)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	return m, m.reply()
}

func (m *mininetStar) reply() error {
	if !m.out.Scan() {
		return errors.Join(m.cmd.Wait(), errors.New(strings.TrimSpace(m.err.String())))
	}
	return json.Unmarshal(m.out.Bytes(), &m.said)
}

func (m *mininetStar) within(i int, fn func() error) error {
	return inNamespace(func() (netns.NsHandle, error) { return netns.GetFromPid(m.said.PIDs[i]) }, fn)
}

func (m *mininetStar) destroy() (time.Duration, error) {
	m.in.Close()
	if err := m.reply(); err != nil {
		return 0, fmt.Errorf("mininet: stop: %w", err)
	}
	return m.took(), m.cmd.Wait()
}

// took is what the program measured last.
func (m *mininetStar) took() time.Duration {
	return time.Duration(m.said.Seconds * float64(time.Second))
}
