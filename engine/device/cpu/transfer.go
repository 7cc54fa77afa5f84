package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Upload is dst ← src.
func (d *Device) Upload(src []byte, as device.Type, dst device.Tensor) {
	device.CheckUpload(src, as, dst)
	switch dst.Type {
	case device.F32:
		decode(src, as, elements[float32](d, dst))
	case device.F64:
		decode(src, as, elements[float64](d, dst))
	default:
		decode(src, as, elements[uint16](d, dst))
	}
}

// Download is dst ← src.
func (d *Device) Download(src device.Tensor, as device.Type, dst []byte) {
	device.CheckDownload(src, as, dst)
	switch src.Type {
	case device.F32:
		encode(elements[float32](d, src), as, dst)
	case device.F64:
		encode(elements[float64](d, src), as, dst)
	default:
		encode(elements[uint16](d, src), as, dst)
	}
}

// Copy is y ← x.
func (d *Device) Copy(x, y device.Tensor) {
	device.CheckCopy(x, y)
	switch y.Type {
	case device.F32:
		d.Download(x, y.Type, asBytes(elements[float32](d, y)))
	case device.F64:
		d.Download(x, y.Type, asBytes(elements[float64](d, y)))
	default:
		d.Download(x, y.Type, asBytes(elements[uint16](d, y)))
	}
}

// Zero is x ← 0.
func (d *Device) Zero(x device.Tensor) {
	device.CheckZero(x)
	switch x.Type {
	case device.F32:
		clear(elements[float32](d, x))
	case device.F64:
		clear(elements[float64](d, x))
	default:
		clear(elements[uint16](d, x))
	}
}

func asBytes[E float | uint16](s []E) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// decode is dst ← src. src may begin at any byte: it is often a part of a file in memory.
func decode[E float | uint16](src []byte, as device.Type, dst []E) {
	var e E
	parallel.For(len(dst), grainElements, func(_, i, j int) {
		to, from := dst[i:j], src[i*as.Size():j*as.Size()]
		if sameKind(e, as) {
			copy(asBytes(to), from)
			return
		}
		switch as {
		case device.F32:
			for k := range to {
				to[k] = from32[E](math.Float32frombits(binary.LittleEndian.Uint32(from[4*k:])))
			}
		case device.F64:
			for k := range to {
				to[k] = from64[E](math.Float64frombits(binary.LittleEndian.Uint64(from[8*k:])))
			}
		default:
			for k := range to {
				to[k] = from32[E](fromBF16(binary.LittleEndian.Uint16(from[2*k:])))
			}
		}
	})
}

// encode is dst ← src.
func encode[E float | uint16](src []E, as device.Type, dst []byte) {
	var e E
	parallel.For(len(src), grainElements, func(_, i, j int) {
		from, to := src[i:j], dst[i*as.Size():j*as.Size()]
		if sameKind(e, as) {
			copy(to, asBytes(from))
			return
		}
		switch as {
		case device.F32:
			for k, v := range from {
				binary.LittleEndian.PutUint32(to[4*k:], math.Float32bits(float32(to64(v))))
			}
		case device.F64:
			for k, v := range from {
				binary.LittleEndian.PutUint64(to[8*k:], math.Float64bits(to64(v)))
			}
		default:
			for k, v := range from {
				binary.LittleEndian.PutUint16(to[2*k:], bf16From64(to64(v)))
			}
		}
	})
}

func sameKind[E float | uint16](e E, t device.Type) bool { return int(unsafe.Sizeof(e)) == t.Size() }

func from32[E float | uint16](v float32) E {
	var e E
	if p, ok := any(&e).(*uint16); ok {
		*p = toBF16(v)
		return e
	}
	return E(v)
}

func from64[E float | uint16](v float64) E {
	var e E
	if p, ok := any(&e).(*uint16); ok {
		*p = bf16From64(v)
		return e
	}
	return E(v)
}

func to64[E float | uint16](v E) float64 {
	if p, ok := any(&v).(*uint16); ok {
		return float64(fromBF16(*p))
	}
	return float64(v)
}
