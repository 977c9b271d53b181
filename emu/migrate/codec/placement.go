package codec

import "github.com/zeebo/xxh3"

// placement is what a batch wrote, as both decoders keep it.
type placement struct {
	runs []run // of the batch at hand

	place, checks, expand Use
}

// content is the checksum of the batch's pages as they are in memory now; those
// of kind zero need not be read.
func (p *placement) content(memory []byte, zero int) (sum uint64) {
	for _, r := range p.runs {
		for k := range r.n {
			if r.kind == zero {
				sum = fold(sum, zeroHash)
			} else {
				sum = fold(sum, xxh3.Hash(at(memory, r.page+k)))
			}
		}
	}
	return sum
}

// done accounts for a batch that is in place, and tells its pages.
func (p *placement) done(h header, batch []byte, placed func(page int)) {
	p.place.Units += int64(h.pages)
	p.place.In += int64(len(batch))
	p.place.Out += int64(h.pages) * PageSize
	for _, r := range p.runs {
		for k := range r.n {
			placed(r.page + k)
		}
	}
}
