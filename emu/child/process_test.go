package child

import (
	"bufio"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// here starts processes in this namespace.
type here struct{ refuses error }

func (h here) Start(_ string, cmd *exec.Cmd) error {
	if h.refuses != nil {
		return h.refuses
	}
	return cmd.Start()
}

// shell is a process that does what a script says; fd 3 is its control channel.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(t.Context(), here{}, Command{What: "echo at h1", Node: "h1", Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// readAll takes lines until there are none.
func (p *Process) readAll(lines *[]string) func() error {
	return func() error {
		sc := bufio.NewScanner(p.Conn)
		for sc.Scan() {
			*lines = append(*lines, sc.Text())
		}
		return sc.Err()
	}
}

func await(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the process has not ended within 10 s")
	}
}

func TestAProcessThatDiesSaysWhy(t *testing.T) {
	p := shell(t, "echo hello >&3; echo out of luck >&2; exit 7")
	var lines []string
	var status, last string
	go p.Run(p.readAll(&lines), func(s, l string) { status, last = s, l })
	await(t, p)
	if got := p.Ended().Error(); got != "echo at h1 ended: exit status 7: out of luck" {
		t.Errorf("got %q", got)
	}
	if status != "exit status 7" || last != "out of luck" || strings.Join(lines, ",") != "hello" {
		t.Errorf("status %q, last words %q, lines %q", status, last, lines)
	}
}

func TestAProcessWhoseWordsCannotBeRead(t *testing.T) {
	p := shell(t, "cat <&3 >/dev/null") // it ends when the channel does
	broken := errors.New("no word of ours")
	go p.Run(func() error { return broken }, nil)
	await(t, p)
	if err := p.Err(); !errors.Is(err, broken) || !p.Succeeded() {
		t.Errorf("got %v", err)
	}
}

func TestAWantedEndIsNoError(t *testing.T) {
	p := shell(t, "sleep 60")
	var lines []string
	go p.Run(p.readAll(&lines), nil)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p.Err() != nil || p.Ended().Error() != "stopped" {
		t.Errorf("got %v, %v", p.Err(), p.Ended())
	}
}

func TestAFencedProcessSaysForWhat(t *testing.T) {
	p := shell(t, "sleep 60")
	var lines []string
	go p.Run(p.readAll(&lines), nil)
	why := errors.New("it did not answer")
	if err := p.Fence(why); err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); !errors.Is(err, why) || err.Error() != "echo at h1 was killed: it did not answer" {
		t.Errorf("got %v", err)
	}
}

func TestWhatCannotBeStartedIsNamed(t *testing.T) {
	none := errors.New("there is no node h1")
	_, err := Start(t.Context(), here{none}, Command{What: "echo at h1", Node: "h1", Argv: []string{"/bin/true"}})
	if !errors.Is(err, none) || err.Error() != "start echo at h1: there is no node h1" {
		t.Errorf("got %v", err)
	}
}
