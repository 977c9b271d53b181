package fidelity

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

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
