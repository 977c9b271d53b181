package fidelity

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

func TestTheBenchIsAScenario(t *testing.T) {
	p, err := starPlan([]topo.Impairment{lineOf(1e8), {Delay: 5e6}}, []topo.Impairment{{Rate: 2e7}})
	require.NoError(t, err)
	require.Len(t, p.Links, 4)
	for _, l := range p.Links {
		t.Log(l.Name(), l.A.Addr, l.AtoB, l.BtoA)
	}
}
