;; world: dated
;; beside: wasi.wit
;; Refuses with 400 and the last digit of the seconds since 1970, as WASI tells them.
(import "wasi:clocks/wall-clock@0.2.6" "now" (func $now (param i32)))
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (call $now (i32.const 512))
  (call $refuse
    (i32.add (i32.const 400)
      (i32.wrap_i64 (i64.rem_u (i64.load (i32.const 512)) (i64.const 10))))
    (i32.const 0) (i32.const 0)))
