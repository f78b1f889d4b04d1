;; world: validator
;; Refuses with a message of 16 MiB.
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (drop (memory.grow (i32.const 300)))
  (memory.fill (i32.const 131072) (i32.const 97) (i32.const 16777216))
  (i32.store8 (i32.const 8) (i32.const 2))            ;; ok(refuse)
  (i32.store16 (i32.const 16) (i32.const 400))
  (i32.store (i32.const 28) (i32.const 131072))       ;; message
  (i32.store (i32.const 32) (i32.const 16777216))
  (i32.const 0))
