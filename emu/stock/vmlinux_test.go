package stock

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

func TestTSCRate(t *testing.T) {
	m := StartTSC()
	if m == nil {
		t.Skip("this machine does not trust its time stamp counter")
	}
	first, second := m.KiloHertz(), m.KiloHertz()
	if diff := first - second; first < 100_000 || diff*diff > first/1000*first/1000 {
		t.Errorf("%d kHz, then %d kHz", first, second)
	}
}

func TestUnsigned(t *testing.T) {
	info := make([]byte, signatureInfo)
	binary.BigEndian.PutUint32(info[signatureInfo-4:], 5)
	signed := bytes.Join([][]byte{[]byte("module"), []byte("12345"), info, []byte(signatureMark)}, nil)
	for name, c := range map[string]struct{ in, want []byte }{
		"signed":                         {signed, []byte("module")},
		"not signed":                     {[]byte("module"), []byte("module")},
		"nothing but the mark":           {[]byte(signatureMark), []byte(signatureMark)},
		"longer than all there is":       {signed[7:], signed[7:]},
		"empty":                          {nil, nil},
		"nothing but the signature":      {signed[6:], []byte{}},
		"a mark, and something after it": {append(bytes.Clone(signed), 'x'), append(bytes.Clone(signed), 'x')},
	} {
		if got := Unsigned(c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestUnpackKernel(t *testing.T) {
	image, err := FindImage()
	if err != nil {
		t.Skip(err)
	}
	data, err := os.ReadFile(image.Path)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := unpackKernel(t.Context(), data)
	if err != nil {
		t.Skip(err) // xz is not installed, as a rule
	}
	if !knowsPVH(kernel) {
		t.Error("a stock kernel does not know PVH")
	}
	for name, broken := range map[string][]byte{
		"empty":         nil,
		"no image":      bytes.Repeat([]byte("x"), 4096),
		"cut":           data[:len(data)/2],
		"only the head": data[:1024],
	} {
		if _, err := unpackKernel(t.Context(), broken); err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
}
