package metrics

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClaimsAreJudgedFromWhatIsStored(t *testing.T) {
	s := twoPoints(t)
	claims := []Claim{
		{ID: "C1", Says: "Set-up takes no minute.", Holds: []Support{{"vpc-setup", []string{"setup.first_packet.p50 < 1min", "setup.first_packet.n >= 7"}}}},
		{ID: "C2", Says: "It does not grow.", Holds: []Support{{"vpc-setup", []string{"setup.first_packet.p50 < 1min", "setup.first_packet.p50 < 2s"}}}},
		{ID: "C3", Says: "It was done at all.", Holds: []Support{{"vpc-setup", []string{"setup.first_packet.n >= 1"}}, {"audit", []string{"audit.leaks == 0"}}}},
	}
	_, err := s.JudgeClaims(claims, []string{"audit", "vpc-setup"})
	require.NoError(t, err)
	got := reopen(t, s).Info().Claims
	require.Len(t, got, 3)
	require.Equal(t, []string{
		"PASS C1: Set-up takes no minute.",
		"  PASS vpc-setup: setup.first_packet.p50 2.04 s < 60 s, n=7, worst of 2 points: sites=10 system=vpn; 1 failed trial left out",
		"  PASS vpc-setup: setup.first_packet.n 7 >= 7, n=7, worst of 2 points: sites=2 system=vpn; 1 failed trial left out",
	}, got[0].Lines())
	require.Equal(t, ClaimFail, got[1].Status)
	require.Len(t, got[1].Evidence, 2, "what holds of a claim that does not stand is said too")
	require.Equal(t, "  FAIL vpc-setup: setup.first_packet.p50 2.04 s is not < 2 s, n=7, worst of 2 points: sites=10 system=vpn; 1 failed trial left out", got[1].Lines()[2])
	require.Equal(t, []string{"OPEN C3: It was done at all. (experiment audit was left out)"}, got[2].Lines())

	again, err := s.JudgeClaims(claims[2:], nil)
	require.NoError(t, err)
	require.Equal(t, ClaimFail, again[0].Status, "an experiment that should have run and left nothing proves nothing")
	require.Contains(t, again[0].Lines()[2], "there are no samples")
	require.Len(t, reopen(t, s).Info().Claims, 1, "the new verdict replaces the old")
	_, err = s.JudgeClaims([]Claim{{ID: "C9", Holds: []Support{{"vpc-setup", []string{"x ="}}}}}, nil)
	require.ErrorContains(t, err, "claim C9: experiment vpc-setup: expectation: ")
}
