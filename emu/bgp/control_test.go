package bgp

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

func TestDecodeRequestRefuses(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{``, "EOF"},
		{`{`, "unexpected EOF"},
		{`[]`, "cannot unmarshal"},
		{`{"op":"rib"}`, "without a number"},
		{`{"id":1}`, `control request "": want configure, rib, reset or stop`},
		{`{"id":1,"op":"reboot"}`, `control request "reboot"`},
		{`{"id":1,"op":"configure"}`, "without a config"},
		{`{"id":1,"op":"rib","config":{}}`, "control request rib with a config"},
		{`{"id":1,"op":"reset","config":{}}`, "control request reset with a config"},
		{`{"id":1,"op":"rib","neighbor":"10.0.0.1"}`, "control request rib with a neighbor"},
		{`{"id":1,"op":"rib","colour":"red"}`, `unknown field "colour"`},
		{`{"id":1,"op":"rib"}{"id":2,"op":"rib"}`, "more than one object"},
		{`{"id":1,"op":"configure","config":{"node":"pe1","router_id":"10.0.0.1"}}`, "asn 0: want 1..65535"},
		{`{"id":1,"op":"configure","config":{"node":"pe1","asn":65000,"router_id":"nonsense"}}`, "ParseAddr"},
	} {
		_, err := decodeRequest([]byte(c.line))
		require.ErrorContains(t, err, c.want, "%s", c.line)
	}
}

func TestDecodeReplyRefuses(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`{}`, "either a request's number or an event"},
		{`{"id":3,"event":{"t_ns":1,"wall":"2026-01-02T15:04:05Z","kind":"x"}}`, "either a request's number or an event"},
		{`{"id":-1}`, "cannot unmarshal"},
	} {
		_, err := decodeReply([]byte(c.line))
		require.ErrorContains(t, err, c.want, "%s", c.line)
	}
}

func TestOversizedLineIsNotSent(t *testing.T) {
	_, err := appendLine(nil, reply{ID: 1, Error: strings.Repeat("x", maxLine)})
	require.ErrorContains(t, err, "want less than")
}

func TestValidateNamesEveryFault(t *testing.T) {
	c := importConfig()
	require.NoError(t, c.Validate())
	c.VRFs[1].Table = 1001
	c.VRFs[1].RD = "65000:1001"
	c.VRFs[1].Label = 3
	c.VRFs[0].Circuits[0].ExportRT = "65000:99999999999"
	c.VRFs[0].Circuits[1].ImportRT = "10.0.0.1:5"
	c.VRFs[0].Circuits[1].Prefix = prefix("10.0.4.1/24")
	c.Neighbors = append(c.Neighbors, c.RouterID)
	c.Tunnels[1].Egress = c.Tunnels[0].Egress
	c.Policy = []RTRule{{Name: "x", From: []string{"rt"}}}
	c.Hold = 2
	err := c.Validate()
	for _, want := range []string{
		`speaker config of "pe1"`, "vrf vrf-blue: table 1001", `route distinguisher "65000:1001"`, "label 3: want 16..1048575",
		`route target "65000:99999999999"`, `route target "10.0.0.1:5"`, `prefix "10.0.4.1/24"`, `neighbor "10.255.0.1"`,
		`tunnel to "10.255.0.2"`, "policy belongs to the reflector", "hold 2 s",
	} {
		require.ErrorContains(t, err, want)
	}
}

// FuzzDecodeRequest: no line may panic the speaker, and what is accepted
// must mean the same when it is written again.
func FuzzDecodeRequest(f *testing.F) {
	good, err := json.Marshal(request{ID: 7, Op: opConfigure, Config: importConfig()})
	require.NoError(f, err)
	f.Add(good)
	lan := lanConfig()
	lan.VSIs[0].Flows = []Flow{gold}
	good, err = json.Marshal(request{ID: 8, Op: opConfigure, Config: lan})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"id":1,"op":"rib"}`))
	f.Add([]byte(`{"id":18446744073709551615,"op":"stop"}`))
	f.Add([]byte(`{"id":1,"op":"configure","config":{"node":"rr","asn":1,"router_id":"1.2.3.4","reflector":true,"neighbors":["::1"],"policy":[{"name":"x","from":["0:0"],"to":null}]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		again, err := appendLine(nil, r)
		require.NoError(t, err)
		r2, err := decodeRequest(again)
		require.NoError(t, err)
		twice, err := appendLine(nil, r2)
		require.NoError(t, err)
		require.Equal(t, string(again), string(twice))
		if r.Config != nil {
			newImporter(r.Config)
			policyRequest(r.Config.Policy)
			for _, e := range r.Config.exports() {
				p, err := e.apiPath(r.Config.RouterID)
				require.NoError(t, err)
				_, err = parsePath(p)
				require.NoError(t, err)
			}
			for _, e := range r.Config.vplsExports(newReach(), nil) {
				p, err := e.apiPath(r.Config.RouterID)
				require.NoError(t, err)
				got, err := parsePath(p)
				require.NoError(t, err)
				require.Equal(t, e.labelBlock, got.(vplsPath).labelBlock)
			}
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	e := event.New("pe1", "bgp.established", map[string]string{"neighbor": "10.255.0.9"})
	good, err := json.Marshal(reply{Event: &e})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"id":1,"rib":[{"rd":"1:1","prefix":"10.0.0.0/8","next_hop":"","best":true}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeReply(line)
		if err != nil {
			return
		}
		again, err := appendLine(nil, r)
		if err != nil {
			return // a time that JSON cannot write
		}
		_, err = decodeReply(again)
		require.NoError(t, err)
	})
}
