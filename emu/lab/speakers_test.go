package lab

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/emu/bgp"
)

// here starts processes where we are.
type here struct{}

func (here) Start(_ string, cmd *exec.Cmd) error { return cmd.Start() }

// TestWhatASpeakerRefusedIsToldAgain: an Apply of the same plan goes on from
// one that a speaker was not done with.
func TestWhatASpeakerRefusedIsToldAgain(t *testing.T) {
	fake, err := bgp.Start(t.Context(), here{}, "pe1", nil, bgp.WithCommand("/bin/sh", "-c", `
		read -r line <&3; echo '{"id":1,"error":"the kernel refused a route"}' >&3
		read -r line <&3; echo '{"id":2}' >&3
		read -r line <&3`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fake.Kill() }()
	s := &speakers{held: func(string) bool { return false }, members: map[string]*member{"pe1": {node: "pe1", proc: fake}}}
	cfg := bgp.Configs(planOf(t, threeSites))["pe1"]
	if _, err := s.configure(t.Context(), "pe1", cfg); err == nil || !strings.Contains(err.Error(), "the kernel refused a route") {
		t.Fatalf("it refused, and that gives %v", err)
	}
	for n, want := range []bool{true, false} {
		if told, err := s.configure(t.Context(), "pe1", cfg); told != want || err != nil {
			t.Errorf("time %d after that: told %v, %v", n+1, told, err)
		}
	}
}
