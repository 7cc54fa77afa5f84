package cpu
import ("syscall";"testing";"math/rand";"surgeon/engine/device")
func BenchmarkOps(b *testing.B){
 d:=Open(); r:=rand.New(rand.NewSource(1))
 mkt:=func(a,b int,t device.Type)device.Tensor{x:=make([]float32,a*b);for i:=range x{x[i]=float32(r.NormFloat64())};return device.NewFrom(d,x,a,b,t)}
 mk:=func(a,b int)device.Tensor{return mkt(a,b,device.F32)}
 const N,D,F,V=512,576,1536,49152
 run:=func(name string,gflop float64,f func()){b.Run(name,func(b *testing.B){f();var u0,u1 syscall.Rusage;syscall.Getrusage(0,&u0);n:=0;for b.Loop(){f();n++};syscall.Getrusage(0,&u1)
 cpu:=float64(u1.Utime.Nano()+u1.Stime.Nano()-u0.Utime.Nano()-u0.Stime.Nano())/1e9
 b.ReportMetric(cpu/float64(n)*1e3/2,"cpu-ms/2")
 if gflop>0{b.ReportMetric(2*gflop*float64(n)/cpu,"GFLOP/cpus*2")}})}
 x,w,y:=mk(N,D),mk(F,D),mk(N,F)
 run("gemmNT",2*N*D*F/1e9,func(){d.Gemm(false,true,1,x,w,0,y)})
 run("gemmNN",2*N*D*F/1e9,func(){d.Gemm(false,false,1,y,w,0,x)})
 run("gemmTN",2*N*D*F/1e9,func(){d.Gemm(true,false,1,y,x,0,w)})
 for _,n:=range []int{D,F}{ x:=mk(N,n);s:=device.AllocSym(d,n,device.F32); d.Zero(s.Packed); run("gram"+string(rune('0'+n/512)),float64(N)*float64(n)*float64(n)/1e9,func(){d.Gram(1,x,1,s)})}
 for _,h:=range []device.Heads{{Length:512,Query:9,KeyValue:3,Dim:64,Scale:.125},{Length:4096,Query:9,KeyValue:3,Dim:64,Scale:.125}}{
  T:=h.Length; q,k,v,out,lse,dout:=mk(T,D),mk(T,192),mk(T,192),mk(T,D),mk(T,9),mk(T,D); dq,dk,dv:=mk(T,D),mk(T,192),mk(T,192)
  fl:=2*float64(T)*float64(T)*64*9/1e9
  nm:="512";if T>512{nm="4096"}
  run("attn"+nm,fl,func(){d.Attention(h,q,k,v,out,lse)})
  run("attnB"+nm,2.5*fl,func(){d.AttentionBackward(h,q,k,v,out,lse,dout,dq,dk,dv)})
  d.Free(q,k,v,out,lse,dout,dq,dk,dv)
 }
 logits,losses:=mk(N,V),mk(1,N); tg:=make([]int32,N)
 run("ce",0,func(){d.CrossEntropy(logits,tg,false,losses)})
 run("ceGrad",0,func(){d.CrossEntropy(logits,tg,true,losses)})
 d.Free(logits)
 u:=mk(N,F); g:=mk(1,D); z:=mk(N,D); dz:=mk(N,D); c:=mk(512,32)
 run("swiglu",0,func(){d.SwiGLU(y,u,y)})
 v1,v2:=mk(N,F),mk(N,F)
 run("swigluB",0,func(){d.SwiGLUBackward(y,u,v1,y,v2)})
 run("rms",0,func(){d.RMSNorm(z,g,1e-5,dz)})
 run("rmsB",0,func(){d.RMSNormBackward(z,g,1e-5,dz,1,dz)})
 run("rope",0,func(){d.Rope(c,c,false,z)})
 run("axpy",0,func(){d.Axpy(1e-9,z,dz)})
 n:=1536
 a:=mkt(2*n,n,device.F64); s:=device.AllocSym(d,n,device.F64); d.Gram(1,a,0,s); m:=d.Alloc(n,n,device.F64); m2:=d.Alloc(n,n,device.F64);d.Extract(s,nil,nil,m2)
 n3:=float64(n)*float64(n)*float64(n)/1e9
 run("extract",0,func(){d.Extract(s,nil,nil,m)})
 run("chol",n3/3,func(){d.Copy(m2,m);d.Cholesky(m)})
 l:=m; bb:=mkt(n,n,device.F64)
 run("solveL",2*n3,func(){d.CholeskySolve(device.Left,l,bb)})
 run("solveR",2*n3,func(){d.CholeskySolve(device.Right,l,bb)})
 dd:=d.Alloc(1,n,device.F64)
 run("invdiag",n3/3,func(){d.CholeskyInverseDiag([]device.Tensor{l},[]device.Tensor{dd})})
 dg:=mkt(n,n,device.F64)
 run("dgemm",2*n3,func(){d.Gemm(false,false,1,m2,bb,0,dg)})
}
