"""What the pipeline is made of between the guard and the models: who may be told what, and how two
answers become one."""
