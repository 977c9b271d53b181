package fidelity

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

// TestMain lets this test binary be what a calibration, and its lab, start in
// nodes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		body, is := map[string]func() error{LoadVerb: func() error { return Load(os.Stdin, os.Stdout) }, "speaker": speakerBody}[os.Args[1]]
		if is {
			if err := body(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func speakerBody() error {
	conn, err := bgp.ControlConn()
	if err != nil {
		return err
	}
	return bgp.RunSpeaker(context.Background(), conn)
}

// measured does some tests on this kernel.
func measured(t *testing.T, q Request) *metrics.Calibration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := Run(ctx, lab.New(lab.Config{Name: Name, Substrate: "uml"}), q, func(s string) { t.Log(s) })
	if c != nil {
		for _, r := range c.Results {
			t.Logf("%s %s | %s | %s | %.3g of %.3g %s | n=%d | %s %s", r.Test, r.What, r.Set, r.Measured, r.Error, r.Bar, r.Unit, r.N, r.Grade, r.Note)
		}
	}
	require.NoError(t, err)
	return c
}

func TestAll(t *testing.T) {
	kerneltest.Need(t)
	q := Request{Quick: true}
	if only := os.Getenv("ONLY"); only != "" {
		q.Only = strings.Split(only, ",")
	}
	measured(t, q)
}
